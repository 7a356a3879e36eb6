package gossip

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"tarn/zfs/durable"
)

// KeyFile is a member's key ring on its disk, and in its Ring once attached. Safe for
// concurrent use.
type KeyFile struct {
	path string

	mu      sync.Mutex
	keyring Keyring
	ring    *Ring
	problem error // of the last Take
}

// OpenKeyFile reads the file. One that is not there has no keys, which is no error.
func OpenKeyFile(path string) (*KeyFile, error) {
	f := &KeyFile{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read gossip key: %w", err)
	}
	if f.keyring, err = ParseKeyring(text); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Attach makes ring follow the file. To be called before anything is taken.
func (f *KeyFile) Attach(ring *Ring) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring = ring
}

// Keyring returns what is on disk and in use; no keys if there is no file.
func (f *KeyFile) Keyring() Keyring {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keyring
}

// Problem is why the last Take failed; nil after one that did not.
func (f *KeyFile) Problem() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.problem
}

// Take puts a newer key ring in place, on disk first: what is confirmed to others
// outlives a crash. One that is not newer changes nothing.
func (f *KeyFile) Take(k Keyring) (taken bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !k.NewerThan(f.keyring) {
		return false, nil
	}
	f.problem = f.take(k)
	return f.problem == nil, f.problem
}

func (f *KeyFile) take(k Keyring) error {
	if err := k.Check(); err != nil {
		return err
	}
	if err := durable.Replace(f.path, k.Text()); err != nil {
		return fmt.Errorf("write gossip keys: %w", err)
	}
	if f.ring != nil {
		if err := f.ring.SetKeys(k.Keys); err != nil {
			return err
		}
	}
	f.keyring = k
	return nil
}
