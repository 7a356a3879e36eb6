package dirzfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

// The index says which files need no look. Each of these made it say so of a file whose
// content was another one: it was in no snapshot, on no replica, and nothing told.

// aged waits until a file's change is old enough for the index to trust its times.
func aged(t *testing.T, path string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		var st unix.Stat_t
		ok(t, unix.Lstat(path, &st))
		if time.Now().UnixNano()-st.Ctim.Nano() > 30e6 {
			return
		}
	}
}

// fromSnapshot mounts a clone and gives its mountpoint.
func fromSnapshot(t *testing.T, h *dirzfs.Host, snap, clone string) string {
	t.Helper()
	ok(t, h.Clone(t.Context(), snap, clone, nil))
	ok(t, h.Mount(t.Context(), clone))
	d, err := h.Dataset(t.Context(), clone)
	ok(t, err)
	return d.Mountpoint
}

func sameFile(t *testing.T, live, snap string) {
	t.Helper()
	a, err := os.ReadFile(live)
	ok(t, err)
	b, err := os.ReadFile(snap)
	ok(t, err)
	if !bytes.Equal(a, b) {
		t.Errorf("%s: the file has %.8q, the snapshot of it %.8q", live, a, b)
	}
}

// TestDirectoriesThatTakeTurns renames a directory away and back: the times of what is in it
// are what they were, and another file had that path meanwhile.
func TestDirectoriesThatTakeTurns(t *testing.T) {
	h := open(t, dirzfs.Pool{Name: "p", Dir: t.TempDir()})
	mp := mounted(t, h, "p/x")
	ok(t, os.Mkdir(mp+"/d", 0o755))
	ok(t, os.WriteFile(mp+"/d/f", []byte("old"), 0o600))
	aged(t, mp+"/d/f")
	ok(t, h.Snapshot(t.Context(), "p/x@1"))
	ok(t, os.Rename(mp+"/d", mp+"/d.old"))
	ok(t, os.Mkdir(mp+"/d", 0o755))
	ok(t, os.WriteFile(mp+"/d/f", []byte("new"), 0o600))
	ok(t, h.Snapshot(t.Context(), "p/x@2")) // too young to be trusted
	ok(t, os.RemoveAll(mp+"/d"))
	ok(t, os.Rename(mp+"/d.old", mp+"/d"))
	ok(t, h.Snapshot(t.Context(), "p/x@3"))
	sameFile(t, mp+"/d/f", fromSnapshot(t, h, "p/x@3", "p/c")+"/d/f")
}

// TestStoresThroughMapping stores twice through one mapping with a snapshot between.
func TestStoresThroughMapping(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	ok(t, unix.Statfs(dir, &fs))
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("skipped: a tmpfs writes no pages out, so that it does not notice stores; needs TMPDIR on a disk")
	}
	h := open(t, dirzfs.Pool{Name: "p", Dir: dir})
	mp := mounted(t, h, "p/x")
	ok(t, os.WriteFile(mp+"/f", bytes.Repeat([]byte("a"), 8192), 0o600))
	f, err := os.OpenFile(mp+"/f", os.O_RDWR, 0)
	ok(t, err)
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	ok(t, err)
	m[0] = '1'
	aged(t, mp+"/f")
	ok(t, h.Snapshot(t.Context(), "p/x@1"))
	m[0] = '2'
	ok(t, unix.Msync(m, unix.MS_SYNC))
	ok(t, unix.Munmap(m))
	ok(t, f.Close())
	ok(t, h.Unmount(t.Context(), "p/x", false))
	ok(t, h.Snapshot(t.Context(), "p/x@2"))
	ok(t, h.Mount(t.Context(), "p/x"))
	sameFile(t, mp+"/f", fromSnapshot(t, h, "p/x@2", "p/c")+"/f")
}

// TestWritesWhileModesChange writes through open handles while readonly goes on and off.
func TestWritesWhileModesChange(t *testing.T) {
	h := open(t, dirzfs.Pool{Name: "p", Dir: t.TempDir()})
	mp := mounted(t, h, "p/x")
	name := func(i int) string { return fmt.Sprintf("/f%04d", i) }
	files := make([]*os.File, 200)
	for i := range files {
		f, err := os.Create(mp + name(i))
		ok(t, err)
		defer f.Close()
		_, err = f.WriteString("00000000")
		ok(t, err)
		files[i] = f
	}
	for round := range 8 {
		aged(t, mp+name(len(files)-1))
		ok(t, h.Snapshot(t.Context(), fmt.Sprintf("p/x@a%d", round)))
		var writer sync.WaitGroup
		writer.Go(func() {
			for _, i := range rand.Perm(len(files)) {
				if _, err := files[i].WriteAt(fmt.Appendf(nil, "%08d", round+1), 0); err != nil {
					t.Error(err)
				}
			}
		})
		ok(t, h.Set(t.Context(), "p/x", map[string]string{zfs.PropReadOnly: []string{"on", "off"}[round%2]}))
		writer.Wait()
		ok(t, h.Snapshot(t.Context(), fmt.Sprintf("p/x@b%d", round)))
		clone := fromSnapshot(t, h, fmt.Sprintf("p/x@b%d", round), fmt.Sprintf("p/c%d", round))
		for i := range files {
			sameFile(t, mp+name(i), clone+name(i))
		}
	}
}

// TestNothingIsTrustedAfterBoot: a loss of power leaves new content with old times where a
// client called fdatasync, and old content with new times where it did not.
func TestNothingIsTrustedAfterBoot(t *testing.T) {
	pool := dirzfs.Pool{Name: "p", Dir: t.TempDir()}
	h := open(t, pool)
	mp := mounted(t, h, "p/x")
	ok(t, os.WriteFile(mp+"/f", []byte("old"), 0o600))
	aged(t, mp+"/f")
	ok(t, h.Snapshot(t.Context(), "p/x@1"))
	trusted := func() int {
		t.Helper()
		d, err := h.Dataset(t.Context(), "p/x")
		ok(t, err)
		n, err := h.Signatures("p", d.GUID)
		ok(t, err)
		return n
	}
	if trusted() == 0 {
		t.Fatal("nothing is trusted before the boot")
	}
	ok(t, h.Close())
	h = open(t, pool) // the same boot
	d, err := h.Dataset(t.Context(), "p/x")
	ok(t, err)
	if n, err := h.Signatures("p", d.GUID); err != nil || n == 0 {
		t.Fatalf("%d are trusted after a restart of the process, %v", n, err)
	}
	ok(t, h.ForgetBoot("p"))
	ok(t, h.Close())
	h = open(t, pool)
	if n, err := h.Signatures("p", d.GUID); err != nil || n != 0 {
		t.Errorf("%d are trusted after a boot, %v", n, err)
	}
}

// TestListingGoesOnWithoutOneDataset: a file that no snapshot can hold is its share's
// trouble, and of no other share of the pool.
func TestListingGoesOnWithoutOneDataset(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "tarn-test-") // a file system that has such files
	ok(t, err)
	t.Cleanup(func() { ok(t, os.RemoveAll(dir)) })
	h := open(t, dirzfs.Pool{Name: "p", Dir: dir})
	bad, good := mounted(t, h, "p/bad"), mounted(t, h, "p/good")
	ok(t, os.WriteFile(good+"/f", []byte("x"), 0o600))
	ok(t, os.WriteFile(bad+"/f", nil, 0o600))
	ok(t, os.Truncate(bad+"/f", 17<<40))
	if _, err := h.Dataset(t.Context(), "p/bad"); !errors.Is(err, zfs.ErrUnsupported) {
		t.Fatalf("measured what no snapshot can hold: %v", err)
	}
	list, err := h.Datasets(t.Context(), "p")
	ok(t, err)
	written := map[string]int64{}
	for _, d := range list {
		written[d.Name] = d.Written
	}
	if written["p/bad"] != -1 || written["p/good"] <= 0 {
		t.Errorf("written: %v", written)
	}
}
