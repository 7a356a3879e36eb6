package dirzfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

func TestCapacity(t *testing.T) {
	h := open(t, dirzfs.Pool{Name: "big", Dir: t.TempDir()}, dirzfs.Pool{Name: "small", Dir: t.TempDir(), Capacity: 4 << 20})
	mp := mounted(t, h, "small/x")
	ok(t, os.WriteFile(mp+"/a", pattern(1, 3<<20), 0o600))
	ok(t, h.Snapshot(t.Context(), "small/x@1"))
	ok(t, os.WriteFile(mp+"/b", pattern(2, 3<<20), 0o600))
	class(t, h.Snapshot(t.Context(), "small/x@2"), zfs.ErrNoSpace)
	ok(t, os.Remove(mp+"/b"))
	ok(t, h.Snapshot(t.Context(), "small/x@2"))
	source := mounted(t, h, "big/x")
	ok(t, os.WriteFile(source+"/a", pattern(3, 3<<20), 0o600))
	ok(t, h.Snapshot(t.Context(), "big/x@1"))
	s, err := h.Send(t.Context(), zfs.SendRequest{Dataset: "big/x", To: "1"})
	ok(t, err)
	class(t, h.Receive(t.Context(), zfs.ReceiveRequest{Target: "small/y@1", Resumable: true}, s), zfs.ErrNoSpace)
	ok(t, s.Close())
	if _, err := h.Dataset(t.Context(), "small/y"); !errors.Is(err, zfs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	pools, err := h.Pools(t.Context())
	ok(t, err)
	if p := pools[1]; p.Size != 4<<20 || p.Free != 1<<20 {
		t.Errorf("pool %+v", p)
	}
}

// TestSpaceComesBack: what is destroyed leaves no record and no pack.
func TestSpaceComesBack(t *testing.T) {
	dir := t.TempDir()
	h := open(t, dirzfs.Pool{Name: "p", Dir: dir, Capacity: 1 << 30})
	mp := mounted(t, h, "p/x")
	for i := range 5 {
		ok(t, os.WriteFile(fmt.Sprintf("%s/%d", mp, i), pattern(uint64(i), 1<<20), 0o600))
		ok(t, h.Snapshot(t.Context(), fmt.Sprintf("p/x@%d", i)))
		ok(t, os.Remove(fmt.Sprintf("%s/%d", mp, i)))
	}
	ok(t, h.Bookmark(t.Context(), "p/x@2", "p/x#m"))
	ok(t, h.DestroySnapshots(t.Context(), "p/x", "0", "1", "2", "3", "4"))
	ok(t, h.Destroy(t.Context(), "p/x"))
	pools, err := h.Pools(t.Context())
	ok(t, err)
	if pools[0].Free != 1<<30 {
		t.Errorf("%d bytes are not free", 1<<30-pools[0].Free)
	}
	packs, err := filepath.Glob(dir + "/packs/*")
	ok(t, err)
	if len(packs) > 0 {
		t.Errorf("packs %v", packs)
	}
}

// TestSnapshotCostFollowsChange: with 4,000 files and one changed, a snapshot
// writes a few objects.
func TestSnapshotCostFollowsChange(t *testing.T) {
	const dirs, files = 10, 400
	h := open(t, dirzfs.Pool{Name: "p", Dir: t.TempDir(), Capacity: 1 << 30})
	mp := mounted(t, h, "p/x")
	for d := range dirs {
		ok(t, os.Mkdir(fmt.Sprintf("%s/%d", mp, d), 0o755))
		for f := range files {
			ok(t, os.WriteFile(fmt.Sprintf("%s/%d/%d", mp, d, f), []byte(fmt.Sprint(d, f)), 0o600))
		}
	}
	ok(t, h.Snapshot(t.Context(), "p/x@1"))
	ok(t, os.WriteFile(mp+"/7/7", []byte("changed"), 0o600))
	ok(t, h.Snapshot(t.Context(), "p/x@2"))
	s, err := h.Send(t.Context(), zfs.SendRequest{Dataset: "p/x", From: "@1", To: "2"})
	ok(t, err)
	n, err := io.Copy(io.Discard, s)
	ok(t, errors.Join(err, s.Close()))
	if n > 100<<10 {
		t.Errorf("one changed file among %d: a stream of %d bytes", dirs*files, n)
	}
	// Unchanged content, content moved and content known elsewhere are not stored again.
	pools, err := h.Pools(t.Context())
	ok(t, err)
	ok(t, os.Rename(mp+"/3", mp+"/three"))
	ok(t, h.Snapshot(t.Context(), "p/x@3"))
	after, err := h.Pools(t.Context())
	ok(t, err)
	if pools[0].Free != after[0].Free {
		t.Errorf("renaming a directory stored %d bytes", pools[0].Free-after[0].Free)
	}
}

// TestDamageIsNoticed: a bit that rots in a pack stops the stream instead of
// travelling.
func TestDamageIsNoticed(t *testing.T) {
	dir := t.TempDir()
	h, err := dirzfs.Open(dirzfs.Config{Pools: []dirzfs.Pool{{Name: "p", Dir: dir}}, Logger: slog.New(slog.DiscardHandler)})
	ok(t, err)
	mp := mounted(t, h, "p/x")
	ok(t, os.WriteFile(mp+"/f", pattern(1, 1<<20), 0o600))
	ok(t, h.Snapshot(t.Context(), "p/x@1"))
	packs, err := filepath.Glob(dir + "/packs/*")
	ok(t, err)
	f, err := os.OpenFile(packs[0], os.O_RDWR, 0)
	ok(t, err)
	_, err = f.WriteAt([]byte("rot"), 300_000)
	ok(t, errors.Join(err, f.Close()))
	class(t, h.Scrub(t.Context(), "p"), zfs.ErrPoolUnavailable)
	s, err := h.Send(t.Context(), zfs.SendRequest{Dataset: "p/x", To: "1"})
	ok(t, err)
	_, err = io.Copy(io.Discard, s)
	class(t, err, zfs.ErrPoolUnavailable)
	class(t, s.Close(), zfs.ErrPoolUnavailable)
	ok(t, h.Close())
}

// FuzzReceive: no stream panics, writes outside, or leaves something behind.
func FuzzReceive(f *testing.F) {
	h, err := dirzfs.Open(dirzfs.Config{Pools: []dirzfs.Pool{{Name: "p", Dir: f.TempDir()}}, Logger: slog.New(slog.DiscardHandler)})
	must(f, err)
	f.Cleanup(func() { must(f, h.Close()) })
	must(f, h.Create(f.Context(), "p/x", map[string]string{zfs.PropCanMount: "on"}, false))
	d, err := h.Dataset(f.Context(), "p/x")
	must(f, err)
	must(f, os.WriteFile(d.Mountpoint+"/f", []byte("content"), 0o600))
	must(f, h.Snapshot(f.Context(), "p/x@1"))
	s, err := h.Send(f.Context(), zfs.SendRequest{Dataset: "p/x", To: "1"})
	must(f, err)
	all, err := io.ReadAll(s)
	must(f, errors.Join(err, s.Close()))
	f.Add(all)
	f.Add(all[:len(all)/2])
	f.Fuzz(func(t *testing.T, stream []byte) {
		err := h.Receive(t.Context(), zfs.ReceiveRequest{Target: "p/y@1"}, bytes.NewReader(stream))
		if err != nil {
			if _, err := h.Dataset(t.Context(), "p/y"); !errors.Is(err, zfs.ErrNotExist) {
				t.Fatalf("a refused stream left a dataset: %v", err)
			}
			return
		}
		ok(t, h.DestroySnapshots(t.Context(), "p/y", "1"))
		ok(t, h.Destroy(t.Context(), "p/y"))
	})
}

// FuzzToken: any string is a valid token or ErrTokenInvalid.
func FuzzToken(f *testing.F) {
	h, err := dirzfs.Open(dirzfs.Config{Pools: []dirzfs.Pool{{Name: "p", Dir: f.TempDir()}}, Logger: slog.New(slog.DiscardHandler)})
	must(f, err)
	f.Cleanup(func() { must(f, h.Close()) })
	f.Add("1-")
	f.Add("1-AAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := h.DecodeToken(t.Context(), token); err != nil && !errors.Is(err, zfs.ErrTokenInvalid) {
			t.Fatal(err)
		}
	})
}
