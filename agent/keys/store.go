package keys

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"tarn/zfs/durable"
)

// Size of a key in bytes: what ZFS calls keyformat=raw.
const Size = 32

// Classes of errors; test with errors.Is.
var (
	// ErrMissing: the share has no key file here.
	ErrMissing = errors.New("key file is missing")
	// ErrUnusable: there is a file, but it is not a key or not a secret.
	ErrUnusable = errors.New("key file cannot be used")
)

// Store is a directory of key files. It is safe for concurrent use, by several
// processes too.
type Store struct{ dir string }

// Open makes the directory if it is missing, for its owner only, and refuses one that
// others may look into.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find key directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make key directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("look at key directory: %w", err)
	}
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key directory %s has mode %v: make it a directory for its owner alone (chmod 700 %s): %w", dir, info.Mode(), dir, ErrUnusable)
	}
	return &Store{dir: dir}, nil
}

// Path is the absolute name of a share's key file, there or not. share is an id: a
// single path element.
func (s *Store) Path(share string) string { return filepath.Join(s.dir, share+".key") }

// Check says why the share's key file cannot be used: ErrMissing or ErrUnusable, with
// the next step in its text. nil means that there is a file of the right size which
// nobody else may read, not that it is the right key.
func (s *Store) Check(share string) error {
	if err := valid(share); err != nil {
		return err
	}
	path := s.Path(share)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: copy it there from a host that has it: %w", path, ErrMissing)
	case err != nil:
		return fmt.Errorf("look at key file: %w: %w", err, ErrUnusable)
	case !info.Mode().IsRegular() || info.Size() != Size:
		return fmt.Errorf("%s is no file of %d bytes: copy it anew from a host that has it: %w", path, Size, ErrUnusable)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s can be read by others (mode %v): chmod 600 %s: %w", path, info.Mode().Perm(), path, ErrUnusable)
	}
	return nil
}

// Make gives the share a key that is durable when it returns. A key that is there
// already stays.
func (s *Store) Make(share string) error {
	if err := s.Check(share); !errors.Is(err, ErrMissing) {
		return err
	}
	key := make([]byte, Size)
	_, _ = rand.Read(key) // never fails
	defer clear(key)
	tmp, err := writeSynced(s.dir, key)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	defer os.Remove(tmp) //nolint:errcheck // its other name stays
	// A link, not a rename: whoever was quicker keeps the key that he made.
	if err := os.Link(tmp, s.Path(share)); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("name key: %w", err)
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return fmt.Errorf("make key durable: %w", err)
	}
	return s.Check(share)
}

// valid refuses ids that would name a file elsewhere.
func valid(share string) error {
	if share == "" || share[0] == '.' || strings.ContainsAny(share, "/\x00") {
		return fmt.Errorf("share id %.100q names no key file: %w", share, ErrUnusable)
	}
	return nil
}

func writeSynced(dir string, data []byte) (name string, err error) {
	f, err := os.CreateTemp(dir, ".new-") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}
