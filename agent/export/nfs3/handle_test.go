package nfs3

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFilesAreToldApartWithoutBirth: inode numbers are used again, and not every file system
// tells when a file was born.
func TestFilesAreToldApartWithoutBirth(t *testing.T) {
	file := filepath.Join(withHandles(t), "f")
	look := func() node {
		t.Helper()
		fd, err := unix.Open(file, unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		st, err := statOf(fd)
		if err != nil {
			t.Fatal(err)
		}
		st.Mask &^= unix.STATX_BTIME
		generation(fd, &st)
		if st.Mask&unix.STATX_BTIME == 0 {
			t.Fatal("nothing tells files apart")
		}
		return nodeOf(&st)
	}
	put(t, file, "one")
	first := look()
	if err := os.Rename(file, file+"2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+"2", file); err != nil {
		t.Fatal(err)
	}
	put(t, file, "longer")
	if again := look(); again != first {
		t.Errorf("the same file is %v and %v", first, again)
	}
	for range 100 {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		put(t, file, "another")
		if next := look(); next == first {
			t.Errorf("two files are %v", first)
		} else if next.ino == first.ino {
			return // used again, and told apart
		}
	}
	t.Log("no inode number was used again")
}

// withHandles is a directory of a file system that has handles of files, as not every overlay.
func withHandles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if _, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, 0); err == nil {
		return dir
	}
	dir, err := os.MkdirTemp("/dev/shm", "tarn-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
