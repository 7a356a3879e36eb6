package keys_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tarn/agent/keys"
)

const share = "0190a000-0000-7000-8000-000000000001"

func open(t *testing.T) *keys.Store {
	t.Helper()
	s, err := keys.Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestMakeIsOnce(t *testing.T) {
	s := open(t)
	if err := s.Check(share); !errors.Is(err, keys.ErrMissing) || !strings.Contains(err.Error(), s.Path(share)) {
		t.Errorf("before: %v", err)
	}
	if err := s.Make(share); err != nil {
		t.Fatal(err)
	}
	first := read(t, s.Path(share))
	info, err := os.Stat(s.Path(share))
	if err != nil || info.Mode() != 0o600 || len(first) != keys.Size || bytes.Equal(first, make([]byte, keys.Size)) {
		t.Errorf("key of %d bytes, %v, %v", len(first), info.Mode(), err)
	}
	if err := s.Make(share); err != nil || !bytes.Equal(first, read(t, s.Path(share))) {
		t.Errorf("made twice: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(s.Path(share))); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// Many at once agree on one key.
func TestMakeIsRacedSafely(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	seen := make([][]byte, 16)
	for i := range seen {
		wg.Go(func() {
			if err := s.Make(share); err != nil {
				t.Error(err)
				return
			}
			seen[i], _ = os.ReadFile(s.Path(share))
		})
	}
	wg.Wait()
	for _, key := range seen {
		if len(key) != keys.Size || !bytes.Equal(key, seen[0]) {
			t.Fatal("two makers got different keys")
		}
	}
}

// A file that is not a secret key is never used and never replaced.
func TestUnusableFilesStay(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"short": func(p string) error { return os.WriteFile(p, []byte("short"), 0o600) },
		"long":  func(p string) error { return os.WriteFile(p, make([]byte, keys.Size+1), 0o600) },
		"readable": func(p string) error {
			return errors.Join(os.WriteFile(p, make([]byte, keys.Size), 0o600), os.Chmod(p, 0o640))
		},
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		s := open(t)
		if err := spoil(s.Path(share)); err != nil {
			t.Fatal(err)
		}
		if err := s.Check(share); !errors.Is(err, keys.ErrUnusable) {
			t.Errorf("%s: Check says %v", name, err)
		}
		if err := s.Make(share); !errors.Is(err, keys.ErrUnusable) {
			t.Errorf("%s: Make says %v", name, err)
		}
	}
	s := open(t)
	for _, id := range []string{"", ".", "..", "../x", "a/b", "a\x00"} {
		if err := s.Make(id); !errors.Is(err, keys.ErrUnusable) {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

func TestDirectoryIsPrivate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Open(dir); !errors.Is(err, keys.ErrUnusable) || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a directory that others can read: %v", err)
	}
}
