package memzfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"

	"tarn/zfs"
)

// secret makes a dataset encrypted: its bytes are kept, snapshotted and sent as they
// lie, and only a loaded key makes text of them.
type secret struct {
	fit  string // fingerprint of the key
	key  []byte // nil while it is not loaded
	root *dataset
}

func fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

// encrypt gives a new dataset the key that its properties name.
func (d *dataset) encrypt(props map[string]string) error {
	if e := props[zfs.PropEncryption]; e == "" || e == "off" {
		return nil
	}
	key, err := readKey(strings.TrimPrefix(props[zfs.PropKeyLocation], "file://"))
	if err != nil || props[zfs.PropKeyFormat] != "raw" {
		return fail("create", d.name, zfs.ErrKey)
	}
	d.secret = &secret{fit: fingerprint(key), key: key, root: d}
	return nil
}

func readKey(file string) ([]byte, error) {
	key, err := os.ReadFile(file)
	if err == nil && len(key) != 32 {
		err = zfs.ErrKey
	}
	return key, err
}

// LoadKey reads the key of an encryption root.
func (h *Host) LoadKey(ctx context.Context, name, file string) error {
	return h.do(ctx, "load-key", name, func() error {
		d, err := h.get("load-key", name)
		switch {
		case err != nil:
			return err
		case d.secret == nil || d.secret.root != d:
			return fail("load-key", name, zfs.ErrInvalid)
		case d.secret.key != nil:
			return nil
		}
		key, err := readKey(file)
		if err != nil || fingerprint(key) != d.secret.fit {
			return fail("load-key", name, zfs.ErrKey)
		}
		d.secret.key = key
		return nil
	})
}

// UnloadKeys is what a restart of the host does.
func (h *Host) UnloadKeys() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.all {
		d.mounted = false
		if d.secret != nil {
			d.secret.key = nil
		}
	}
}

// crypt turns text at an offset into what lies on disk, and back.
func (d *dataset) crypt(text []byte, offset int) ([]byte, error) {
	if d.secret == nil {
		return text, nil
	}
	key := d.secret.root.secret.key
	if key == nil {
		return nil, fail("read", d.name, zfs.ErrKey)
	}
	out := make([]byte, len(text))
	for i, b := range text {
		out[i] = b ^ key[(offset+i)%len(key)]
	}
	return out, nil
}

func (d *dataset) locked() bool { return d.secret != nil && d.secret.root.secret.key == nil }

func (d *dataset) showKey(out *zfs.Dataset) {
	if d.secret != nil {
		out.Encrypted, out.KeyLoaded, out.EncryptionRoot = true, !d.locked(), d.secret.root.name
	}
}

// inherit is what a clone has of its origin's key.
func (d *dataset) inherit(origin *dataset) {
	if origin.secret != nil {
		d.secret = &secret{fit: origin.secret.fit, root: origin.secret.root}
	}
}

// takeOver makes a promoted clone the encryption root; the key has to be loaded anew.
func (d *dataset) takeOver(old *dataset) {
	if d.secret != nil && d.secret.root == old {
		d.secret.root, d.secret.key = d, nil
		old.secret.root, old.secret.key = d, nil
	}
}

func (d *dataset) fit() string {
	if d.secret == nil {
		return ""
	}
	return d.secret.fit
}
