package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Why an encrypted share, or one that should not be, is not served.
var (
	errNoKeys       = errors.New("the share is encrypted and this host has no key directory: set encryption.key_dir in its agent.toml")
	errKeyedClone   = errors.New("a share of an encrypted type cannot be made from a snapshot: a clone has no key of its own")
	errNotEncrypted = errors.New("the dataset is not encrypted, though the share's type says so: its data would lie open. Move it away, and restore or promote an encrypted replica")
	errInherited    = errors.New("the dataset inherits its encryption key: streams that come back would damage it. Give it a key of its own (zfs change-key), or move it away")
	errEncrypted    = errors.New("the dataset has an encryption key of its own, and the share's type does not say tarn:encryption=on: its streams would lay the data open")
)

// Properties of an encrypted dataset. The cipher is named so that it does not depend
// on the version that created the share.
const (
	cipher    = "aes-256-gcm"
	keyFormat = "raw"
)

// keyEvery is how often a key file that is missing is looked for, and keyCheck how
// often the storage is asked, which costs a process, whether a key is loaded.
const (
	keyEvery = 5 * time.Second
	keyCheck = 10 * time.Minute
)

// Keys are this host's key files. Check says why a share's cannot be used, Make makes
// one, durably, unless there is one.
type Keys interface {
	Path(share string) string
	Check(share string) error
	Make(share string) error
}

// KeyLoader gives the storage the key of a dataset: the 32 bytes in file. Idempotent;
// zfs.ErrKey when it does not fit.
type KeyLoader interface {
	LoadKey(ctx context.Context, dataset, file string) error
}

// misfit says why the dataset must not be used for the share as its type is. Raw and
// plain streams cannot be mixed in one history, and a key that is inherited does not
// survive streams that return to their origin.
func (s *state) misfit() error {
	ds := s.f.ds
	if ds == nil {
		return nil
	}
	own := ds.Encrypted && ds.EncryptionRoot == ds.Name
	switch {
	case !s.a.GetEncrypted() && own:
		return errEncrypted
	case !s.a.GetEncrypted() || own:
		return nil
	case ds.Encrypted:
		return errInherited
	}
	return errNotEncrypted
}

// locked reports that the data cannot be read: the key is not loaded.
func (s *state) locked() bool { return s.a.GetEncrypted() && s.f.ds != nil && !s.f.ds.KeyLoaded }

// lookForKey notes whether a locked dataset's key is there to be loaded. The same
// trouble stays the same error, so that it is told once.
func (w *Worker) lookForKey() {
	err := w.keyTrouble()
	if err == nil || w.s.keyless == nil || w.s.keyless.Error() != err.Error() {
		w.s.keyless = err
	}
}

func (w *Worker) keyTrouble() error {
	switch {
	case !w.s.locked():
		return nil
	case w.cfg.Keys == nil:
		return errNoKeys
	}
	if err := w.cfg.Keys.Check(w.cfg.ShareID); err != nil {
		return fmt.Errorf("the share's encryption key is not on this host: %w", err)
	}
	return nil
}

// keyDue reports that it is time to see whether somebody has loaded or unloaded the
// key by hand.
func (w *Worker) keyDue(now time.Time) bool {
	return w.s.a.GetEncrypted() && w.s.f.ds != nil && !w.s.pulling && now.Sub(w.keySeen) > keyCheck
}

// unlocking are the rules that get an active dataset its key. Nothing behind them can
// succeed without it.
func unlocking(s *state) []rule {
	return []rule{
		must(s.locked() && s.keyless == nil, do(doLoadKey)),
		must(s.locked(), refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_KEY_UNAVAILABLE, s.keyless)),
	}
}

// fitting is the rule that keeps a dataset of the wrong kind out of service.
func fitting(s *state) rule {
	err := s.misfit()
	return must(err != nil, refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_UNSUPPORTED, err))
}

// encryption gives the properties of a new encrypted dataset, whose key is durable
// before the first block is written under it.
func (w *Worker) encryption() (map[string]string, error) {
	if !w.s.a.GetEncrypted() {
		return nil, nil
	}
	if err := w.cfg.Keys.Make(w.cfg.ShareID); err != nil {
		return nil, fmt.Errorf("make encryption key: %w", err)
	}
	return map[string]string{
		zfs.PropEncryption: cipher, zfs.PropKeyFormat: keyFormat, zfs.PropKeyLocation: "file://" + w.cfg.Keys.Path(w.cfg.ShareID),
	}, nil
}

func (w *Worker) loadKey(ctx context.Context) error {
	return w.cfg.Engine.LoadKey(ctx, w.l.dataset(), w.cfg.Keys.Path(w.cfg.ShareID))
}

// describeKey tells the control plane whether this host could serve the share.
func (w *Worker) describeKey(r *tarnv1.ReplicaReport) {
	if !w.s.a.GetEncrypted() || w.s.f.ds == nil {
		return
	}
	if w.cfg.Keys != nil {
		r.KeyFile = w.cfg.Keys.Path(w.cfg.ShareID)
	}
	r.KeyState = tarnv1.KeyState_KEY_STATE_AVAILABLE
	if w.s.locked() {
		r.KeyState = tarnv1.KeyState_KEY_STATE_MISSING
	}
}
