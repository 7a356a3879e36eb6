package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// What a data directory holds.
const (
	idFile      = "server-id" // this server's id, written before anything else
	dbFile      = "raft.db"   // log, term and vote
	openedFile  = "opened"    // written once dbFile exists; from then on its absence is a loss
	memberFile  = "member"    // written when the server learns that its addition is committed
	removedFile = "removed"   // written when the server learns that it was removed
	grantFile   = "founders"  // the founding set this server agreed to, see founding.go
	snapshotDir = "snapshots" // kept by raft
)

// lockWait bounds the wait for another process's hold on the log.
const lockWait = 2 * time.Second

// logCache is how many recent entries are served from memory: to followers, and
// to readers that look for the last command.
const logCache = 2048

// ServerID returns the identity of the server whose data is in dir, minting a
// new one (UUID version 7) if dir is empty or absent. A directory that was lost
// thus never comes back under an id that has already voted (reliability.md 2.2,
// number 12). A directory with data but no id gives ErrTorn.
func ServerID(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, idFile))
	if errors.Is(err, fs.ErrNotExist) {
		return mintID(dir)
	}
	if err != nil {
		return "", fmt.Errorf("read server id: %w", err)
	}
	id := strings.TrimSpace(string(data))
	if _, err := uuid.Parse(id); err != nil {
		return "", fmt.Errorf("%w: server id %q is not a UUID", ErrTorn, id)
	}
	return id, nil
}

func mintID(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("create data directory: %w", err)
	}
	for _, name := range []string{dbFile, openedFile, snapshotDir} {
		if exists(filepath.Join(dir, name)) {
			return "", fmt.Errorf("%w: %s exists but %s does not", ErrTorn, name, idFile)
		}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("mint server id: %w", err)
	}
	return id.String(), writeMark(dir, idFile, id.String()+"\n")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// writeMark writes a small file that is there whole or not at all after a crash.
func writeMark(dir, name, content string) error {
	tmp := filepath.Join(dir, "."+name+".tmp")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return syncDir(dir)
}

// spaceFile takes startSpace bytes for a moment.
const (
	spaceFile  = "space"
	startSpace = 1 << 20
)

// checkSpace refuses to start on a full disk: what is written in place would still work,
// and the node vote and follow until the first entry that needs a new page.
func checkSpace(dir string) error {
	err := writeMark(dir, spaceFile, strings.Repeat("x", startSpace))
	path := filepath.Join(dir, spaceFile)
	if err != nil {
		path = filepath.Join(dir, "."+spaceFile+".tmp")
	}
	removed := os.Remove(path)
	if err != nil {
		return fmt.Errorf("the log needs %d bytes of free space to start: %w", startSpace, err)
	}
	return removed
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkDir refuses a directory that must not be started from.
func checkDir(dir, id string) error {
	if !exists(filepath.Join(dir, idFile)) {
		return fmt.Errorf("%w: %s has no server id; a lost directory rejoins under a new one", ErrTorn, dir)
	}
	have, err := ServerID(dir)
	if err != nil {
		return err
	}
	if have != id {
		return fmt.Errorf("%w: directory belongs to server %s, not %s", ErrConflict, have, id)
	}
	if exists(filepath.Join(dir, removedFile)) {
		return ErrRemoved
	}
	path := filepath.Join(dir, dbFile)
	if exists(path) {
		return checkDB(path)
	}
	if exists(filepath.Join(dir, openedFile)) {
		return fmt.Errorf("%w: %s is gone", ErrTorn, dbFile)
	}
	return nil
}

// checkDB reads the whole file once before anything relies on it: bbolt maps it
// into memory, where a missing page is a fault that no program can handle, and
// makes an empty file into a new database.
func checkDB(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("check log: %w", err)
	}
	if info.Size() == 0 {
		return checkEmpty(path)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockWait})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return fmt.Errorf("open log %s: another process holds it: %w", path, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrTorn, dbFile, err)
	}
	err = errors.Join(db.View(func(tx *bbolt.Tx) error { return checkPages(tx, info.Size()) }), db.Close())
	if err == nil {
		err = errors.Join(checkMetas(path, info.Size()), checkEntries(path))
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrTorn, dbFile, err)
	}
	return nil
}

// checkEmpty allows the empty file that a crash during the first start leaves.
func checkEmpty(path string) error {
	if exists(filepath.Join(filepath.Dir(path), openedFile)) {
		return fmt.Errorf("%w: %s is empty", ErrTorn, dbFile)
	}
	return nil
}

// checkPages visits every page in use. bbolt answers damage with a panic, and in
// its own checker with one in a goroutine that nobody can recover: hence the
// walk by hand.
func checkPages(tx *bbolt.Tx, size int64) (err error) {
	if tx.Size() > size {
		return fmt.Errorf("file has %d bytes, %d are in use", size, tx.Size())
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read pages: %v", p)
		}
	}()
	return tx.ForEach(func(name []byte, b *bbolt.Bucket) error { return checkKeys(name, b) })
}

func checkKeys(name []byte, b *bbolt.Bucket) error {
	var last []byte
	return b.ForEach(func(key, _ []byte) error {
		if last != nil && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("bucket %s: keys out of order", name)
		}
		last = key
		return nil
	})
}

// storage is everything on disk, open.
type storage struct {
	db     *raftboltdb.BoltStore
	logs   raft.LogStore
	stable raft.StableStore
	snaps  raft.SnapshotStore
	runs   atomic.Bool // raft runs on it
}

// openStorage opens dir for writing. fail is called, from any goroutine, when a write
// has failed or takes longer than Timeouts.Store.
func openStorage(cfg Config, fail func(error)) (*storage, error) {
	db, err := raftboltdb.New(raftboltdb.Options{
		Path: filepath.Join(cfg.Dir, dbFile),
		BoltOptions: &bbolt.Options{
			Timeout: lockWait,
			// Writing the list of free pages with every commit is what makes bbolt
			// slow after a while; it is rebuilt at start instead.
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		},
		MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	s := &storage{db: db}
	if err := s.open(cfg, fail); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func (s *storage) open(cfg Config, fail func(error)) error {
	if err := checkSpace(cfg.Dir); err != nil {
		return err
	}
	if err := writeMark(cfg.Dir, openedFile, ""); err != nil {
		return err
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(cfg.Dir, 2, raftLogger(cfg.Logger))
	if err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	s.snaps = indexedSnapshots{snaps}
	once := &failOnce{limit: cfg.Timeouts.Store, report: fail}
	sealed := sealedLog{s.db}
	s.stable = guardedStable{s.db, once, &s.runs}
	s.logs, err = raft.NewLogCache(logCache, guardedLog{sealed, once})
	if err != nil {
		return fmt.Errorf("open log cache: %w", err)
	}
	return checkHistory(sealed, s.snaps, cfg)
}
