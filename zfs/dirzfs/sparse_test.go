package dirzfs

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
)

func sparsePool(t *testing.T, dir string) *Host {
	t.Helper()
	h, err := Open(Config{Pools: []Pool{{Name: "q", Dir: dir}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(h.Create(t.Context(), "q/s", nil, false), h.Mount(t.Context(), "q/s")); err != nil {
		t.Fatal(err)
	}
	return h
}

// copyTo replicates a snapshot of q/s.
func copyTo(t *testing.T, h *Host, from, to string) {
	t.Helper()
	s, err := h.Send(t.Context(), zfs.SendRequest{Dataset: "q/s", To: to, From: from})
	if err != nil {
		t.Fatal(err)
	}
	err = h.Receive(t.Context(), zfs.ReceiveRequest{Target: "q/r@" + to, Resumable: true}, s)
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestHugeSparseFile: whoever may write to a share makes a file of a terabyte with one call.
// It costs neither memory nor time by its size, and arrives with what little it has.
func TestHugeSparseFile(t *testing.T) {
	dir := t.TempDir()
	h := sparsePool(t, dir)
	const size = 1<<40 - 12345
	data := pattern(3 * tree.ChunkSize)
	write := func(at int64) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, "mnt/q/s/f"), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt(data, at)
		if err := errors.Join(err, f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	places := []int64{1<<39 + 777, size - int64(len(data)), 5}
	write(places[0])
	write(places[1])
	if err := h.Snapshot(t.Context(), "q/s@1"); err != nil {
		t.Fatal(err)
	}
	copyTo(t, h, "", "1")
	if err := h.Mount(t.Context(), "q/r"); err != nil {
		t.Fatal(err)
	}
	wantAt(t, dir, size, data, places[:2])
	write(places[2])
	if err := h.Snapshot(t.Context(), "q/s@2"); err != nil {
		t.Fatal(err)
	}
	copyTo(t, h, "@1", "2")
	wantAt(t, dir, size, data, places)
}

func wantAt(t *testing.T, dir string, size int64, data []byte, places []int64) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "mnt/q/r/f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	got := make([]byte, len(data))
	for _, at := range places {
		if _, err := f.ReadAt(got, at); err != nil || !bytes.Equal(got, data) {
			t.Errorf("what is at %d did not arrive: %v", at, err)
		}
	}
	if info, err := f.Stat(); err != nil || info.Size() != size {
		t.Errorf("%v, %v", info, err)
	}
}

// TestFileLargerThanAny: one that no tree can hold makes the snapshot fail, with its name,
// and nothing else.
func TestFileLargerThanAny(t *testing.T) {
	dir := t.TempDir()
	if err := os.Truncate(makeFile(t, filepath.Join(dir, "probe")), 1<<62); err != nil {
		var shmErr error
		if dir, shmErr = os.MkdirTemp("/dev/shm", "tarn"); shmErr != nil {
			t.Skipf("no file system here has files of 4 EiB: %v, %v", err, shmErr)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	h := sparsePool(t, dir)
	if err := os.Truncate(makeFile(t, filepath.Join(dir, "mnt/q/s/monster")), 1<<62); err != nil {
		t.Fatal(err)
	}
	if err := h.Snapshot(t.Context(), "q/s@1"); err == nil || !strings.Contains(err.Error(), "monster") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(filepath.Join(dir, "mnt/q/s/monster")); err != nil {
		t.Fatal(err)
	}
	if err := h.Snapshot(t.Context(), "q/s@1"); err != nil {
		t.Error(err)
	}
}

func makeFile(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
