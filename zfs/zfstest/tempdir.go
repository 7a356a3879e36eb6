package zfstest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TempDir is t.TempDir for pools of dirzfs: read-only copies in it, which an
// ordinary user could not delete, do not fail the test at its end. Close the
// host in a cleanup registered after this call.
func TempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := MakeRemovable(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// MakeRemovable lets an ordinary user delete directories that are not writable.
// What vanishes meanwhile is no error.
func MakeRemovable(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !d.IsDir() {
			return nil
		}
		if err := os.Chmod(path, 0o700); err != nil {
			return err
		}
		if err != nil {
			return MakeRemovable(path)
		}
		return nil
	})
}
