package zfs_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"math"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// share makes a mounted filesystem with some content.
func share(t *testing.T, h *zfs.Host, pool realzfs.Pool, name string, size int) (ds, dir string) {
	t.Helper()
	ds, dir = pool.Name+"/"+name, pool.Dir+"/"+name
	ok(t, h.Create(t.Context(), ds, map[string]string{zfs.PropCanMount: "on", zfs.PropATime: "off"}, false))
	ok(t, os.WriteFile(dir+"/data", noise(size), 0o644))
	return ds, dir
}

func record(t *testing.T, h *zfs.Host, req zfs.SendRequest) []byte {
	t.Helper()
	s, err := h.Send(t.Context(), req)
	ok(t, err)
	all, err := io.ReadAll(s)
	ok(t, errors.Join(err, s.Close()))
	return all
}

func snapshotNames(t *testing.T, h *zfs.Host, ds string) (names []string) {
	t.Helper()
	list, err := h.Versions(t.Context(), ds)
	ok(t, err)
	for _, v := range list {
		names = append(names, v.Name)
	}
	return names
}

// TestPoolFull: a stream that does not fit ends in ErrNoSpace, the pool stays usable, and
// there is room for a smaller one.
func TestPoolFull(t *testing.T) {
	src, dst := realzfs.NewPool(t, 256), realzfs.NewPool(t, 64)
	h := open(t, src, dst)
	ctx := t.Context()
	big, _ := share(t, h, src, "big", 100<<20)
	small, _ := share(t, h, src, "small", 1<<20)
	for _, ds := range []string{big, small} {
		ok(t, h.Snapshot(ctx, ds+"@1"))
	}
	target := dst.Name + "/r"
	err := transfer(t, h, zfs.SendRequest{Dataset: big, To: "1"}, zfs.ReceiveRequest{Target: target + "@1", Resumable: true})
	fails(t, err, zfs.ErrNoSpace)
	if !strings.Contains(err.Error(), "next: free space in pool "+dst.Name) {
		t.Error(err)
	}
	if err := h.AbortReceive(ctx, target); err != nil { // the half that arrived is given up
		fails(t, err, zfs.ErrNotResumable)
	}
	ok(t, h.Sync(ctx, dst.Name))
	ok(t, transfer(t, h, zfs.SendRequest{Dataset: small, To: "1"}, zfs.ReceiveRequest{Target: target + "@1"}))
}

func transfer(t *testing.T, h *zfs.Host, from zfs.SendRequest, to zfs.ReceiveRequest) error {
	t.Helper()
	s, err := h.Send(t.Context(), from)
	ok(t, err)
	err = h.Receive(t.Context(), to, s)
	if closed := s.Close(); err == nil {
		err = closed
	}
	return err
}

// TestPoolExported: a pool that is gone is not mistaken for a dataset that is gone.
func TestPoolExported(t *testing.T) {
	pool := realzfs.NewPool(t, 128)
	h := open(t, pool)
	ctx := t.Context()
	ds, _ := share(t, h, pool, "s", 1000)
	ok(t, h.Snapshot(ctx, ds+"@1"))
	stream := record(t, h, zfs.SendRequest{Dataset: ds, To: "1"})
	ok(t, realzfs.Export(pool))
	_, dataset := h.Dataset(ctx, ds)
	_, versions := h.VersionsBelow(ctx, pool.Name)
	_, send := h.Send(ctx, zfs.SendRequest{Dataset: ds, To: "1"})
	for op, err := range map[string]error{
		"dataset": dataset, "versions": versions, "send": send,
		"snapshot": h.Snapshot(ctx, ds+"@2"), "set": h.Set(ctx, ds, map[string]string{"tarn:a": "b"}),
		"create": h.Create(ctx, pool.Name+"/new", nil, true), "mount": h.Mount(ctx, ds),
		"receive": h.Receive(ctx, zfs.ReceiveRequest{Target: pool.Name + "/r@1"}, bytes.NewReader(stream)),
	} {
		if !errors.Is(err, zfs.ErrPoolUnavailable) || !strings.Contains(err.Error(), "zpool import "+pool.Name) {
			t.Errorf("%s of an exported pool: %v", op, err)
		}
	}
	list, err := h.Pools(ctx)
	ok(t, err)
	if len(list) != 1 || list[0].Health != "UNAVAIL" {
		t.Errorf("pools %+v", list)
	}
	ok(t, realzfs.Import(pool))
	_, err = h.Dataset(ctx, ds)
	ok(t, err)
	_, err = h.Dataset(ctx, pool.Name+"/none")
	fails(t, err, zfs.ErrNotExist)
}

// TestAdminMeanwhile: what somebody else does to the datasets ends in the class that
// the next plan is made of, and in nothing else.
func TestAdminMeanwhile(t *testing.T) {
	src, dst := realzfs.NewPool(t, 256), realzfs.NewPool(t, 256)
	h := open(t, src, dst)
	ctx := t.Context()
	ds, dir := share(t, h, src, "s", 100<<10)
	for _, n := range []string{"1", "2", "3"} {
		ok(t, os.WriteFile(dir+"/"+n, noise(10<<10), 0o644))
		ok(t, h.Snapshot(ctx, ds+"@"+n))
	}
	target := dst.Name + "/r"
	step := func(from, to string) error {
		return transfer(t, h, zfs.SendRequest{Dataset: ds, From: from, To: to}, zfs.ReceiveRequest{Target: target + "@" + to})
	}
	ok(t, step("", "1"))
	ok(t, step("@1", "2"))

	ok(t, realzfs.Zfs("rollback", "-r", target+"@1")) // rolled back: the base is missing
	fails(t, step("@2", "3"), zfs.ErrDiverged)
	ok(t, step("@1", "2"))

	ok(t, realzfs.Zfs("snapshot", target+"@foreign")) // his own snapshot
	if err := step("@2", "3"); err != nil {           // without changes some versions take it
		fails(t, err, zfs.ErrDiverged)
		ok(t, realzfs.Zfs("destroy", target+"@foreign"))
		ok(t, step("@2", "3"))
	}

	ok(t, realzfs.Zfs("rename", target, target+"x")) // renamed away
	fails(t, step("@2", "3"), zfs.ErrNotExist)
	_, err := h.Versions(ctx, target)
	fails(t, err, zfs.ErrNotExist)
	if names := snapshotNames(t, h, target+"x"); !slices.Contains(names, "3") || slices.Contains(names, "4") {
		t.Errorf("an increment for a dataset that is not there went into another one: %v", names)
	}

	ok(t, h.DestroySnapshots(ctx, ds, "2")) // deleted between plan and send
	_, err = h.Send(ctx, zfs.SendRequest{Dataset: ds, From: "@2", To: "3"})
	fails(t, err, zfs.ErrBaseMissing)
	_, err = h.Send(ctx, zfs.SendRequest{Dataset: ds, From: "@1", To: "2"})
	fails(t, err, zfs.ErrNotExist)

	ok(t, h.Unmount(ctx, ds, false))
	ok(t, realzfs.DestroyAll(ds)) // everything gone
	_, err = h.Send(ctx, zfs.SendRequest{Dataset: ds, To: "3"})
	fails(t, err, zfs.ErrNotExist)
	fails(t, h.Snapshot(ctx, ds+"@9"), zfs.ErrNotExist)
}

// TestFlippedIncrements flips bits at 1,000 random places of an increment. None changes
// the target, and the untouched stream fits afterwards. On a slow machine it stops
// earlier and says so.
func TestFlippedIncrements(t *testing.T) {
	src, dst := realzfs.NewPool(t, 256), realzfs.NewPool(t, 256)
	h := open(t, src, dst)
	ctx := t.Context()
	ds, dir := share(t, h, src, "s", 50<<10)
	ok(t, h.Snapshot(ctx, ds+"@1"))
	target := dst.Name + "/r"
	ok(t, transfer(t, h, zfs.SendRequest{Dataset: ds, To: "1"}, zfs.ReceiveRequest{Target: target + "@1"}))
	ok(t, os.WriteFile(dir+"/more", noise(20<<10), 0o644))
	ok(t, os.Remove(dir+"/data"))
	ok(t, h.Snapshot(ctx, ds+"@2"))
	stream := record(t, h, zfs.SendRequest{Dataset: ds, From: "@1", To: "2"})
	rng := mathrand.New(mathrand.NewPCG(2, uint64(len(stream))))
	const flips = 1000
	begun, classes := time.Now(), map[string]int{}
	for i := range flips {
		if i >= 50 && time.Since(begun) > time.Minute {
			t.Logf("%d of %d flips in a minute", i, flips)
			break
		}
		bad, at := bytes.Clone(stream), rng.IntN(len(stream))
		bad[at] ^= 1 << rng.IntN(8)
		err := h.Receive(ctx, zfs.ReceiveRequest{Target: target + "@2"}, bytes.NewReader(bad))
		var e *zfs.Error
		if err == nil && at >= len(stream)-zfs.StreamHeadSize && guidOf(t, h, target, "2") == guidOf(t, h, ds, "2") {
			classes["in the unused end of the last record"]++
			ok(t, h.DestroySnapshots(ctx, target, "2"))
			ok(t, h.Rollback(ctx, target+"@1"))
			continue
		}
		if !errors.As(err, &e) {
			t.Fatalf("flip at byte %d of %d: %v", at, len(stream), err)
		}
		classes[e.Class.Error()]++
		if errors.Is(e, zfs.ErrUnclassified) {
			t.Errorf("flip at byte %d: %v", at, err)
		}
	}
	t.Logf("classes: %v", classes)
	if names := snapshotNames(t, h, target); !slices.Equal(names, []string{"1"}) {
		t.Fatalf("after damaged streams the target has %v", names)
	}
	ok(t, h.Sync(ctx, dst.Name))
	if d, err := h.Dataset(ctx, target); err != nil || d.Written != 0 {
		t.Fatalf("damaged streams changed the target: %+v, %v", d, err)
	}
	ok(t, h.Receive(ctx, zfs.ReceiveRequest{Target: target + "@2"}, bytes.NewReader(stream)))
}

// TestHostileStreams: properties, several datasets and another snapshot than expected
// are refused before zfs sees them.
func TestHostileStreams(t *testing.T) {
	src, dst := realzfs.NewPool(t, 256), realzfs.NewPool(t, 256)
	h := open(t, src, dst)
	ctx := t.Context()
	ds, _ := share(t, h, src, "s", 10<<10)
	ok(t, h.Set(ctx, ds, map[string]string{"exec": "off", "tarn:role": "primary"}))
	ok(t, h.Snapshot(ctx, ds+"@1"))
	for name, args := range map[string][]string{"properties": {"send", "-p", ds + "@1"}, "replication": {"send", "-R", ds + "@1"}} {
		stream, err := exec.Command("/usr/sbin/zfs", args...).Output()
		ok(t, err)
		fails(t, h.Receive(ctx, zfs.ReceiveRequest{Target: dst.Name + "/r@1"}, bytes.NewReader(stream)), zfs.ErrStreamRefused)
		if _, err := h.Dataset(ctx, dst.Name+"/r"); err == nil {
			t.Errorf("a stream with %s was received", name)
		}
	}
	plain := zfs.SendRequest{Dataset: ds, To: "1"}
	guid := guidOf(t, h, ds, "1")
	fails(t, transfer(t, h, plain, zfs.ReceiveRequest{Target: dst.Name + "/r@1", Expect: guid + 1}), zfs.ErrStreamRefused)
	ok(t, transfer(t, h, plain, zfs.ReceiveRequest{Target: dst.Name + "/r@1", Expect: guid, Properties: map[string]string{"devices": "off"}}))
	got, err := h.Get(ctx, dst.Name+"/r", "tarn:role", "exec", "devices", zfs.PropCanMount)
	ok(t, err)
	if got["tarn:role"].Source == zfs.SourceLocal || got["exec"].Value != "on" || got["devices"].Value != "off" || got[zfs.PropCanMount].Value != "noauto" {
		t.Errorf("received %v", got)
	}
}

func guidOf(t *testing.T, h *zfs.Host, ds, name string) zfs.GUID {
	t.Helper()
	list, err := h.Versions(t.Context(), ds)
	ok(t, err)
	for _, v := range list {
		if v.Name == name {
			return v.GUID
		}
	}
	t.Fatalf("no %s@%s", ds, name)
	return 0
}

// TestProcesses counts the processes that each call costs.
func TestProcesses(t *testing.T) {
	src, dst := realzfs.NewPool(t, 256), realzfs.NewPool(t, 256)
	n := make(chan string, 1000)
	h := openWith(t, zfs.Config{
		Pools: []string{src.Name, dst.Name}, UserProperties: []string{"tarn:role"},
		Observe: func(c zfs.Call) { n <- c.Op },
	})
	ctx := t.Context()
	caps, err := h.Capabilities(ctx)
	ok(t, err)
	ds, dir := share(t, h, src, "s", 10<<10)
	modern := caps.MultiSnapshot
	costs := func(what string, atMost int, err error) {
		t.Helper()
		ok(t, err)
		var ops []string
		for len(n) > 0 {
			ops = append(ops, <-n)
		}
		if len(ops) > atMost {
			t.Errorf("%s took %d processes, %v; at most %d", what, len(ops), ops, atMost)
		}
	}
	either := func(now, old int) int {
		if modern {
			return now
		}
		return old
	}
	costs("setup", math.MaxInt, nil)
	costs("snapshot", 1, h.Snapshot(ctx, ds+"@1"))
	costs("hold", 1, h.Hold(ctx, "t", ds+"@1"))
	costs("release", 1, h.Release(ctx, "t", ds+"@1"))
	costs("two properties", either(1, 2), h.Set(ctx, ds, map[string]string{"tarn:role": "x", "tarn:epoch": "1"}))
	d, err := h.Dataset(ctx, ds)
	costs("dataset", 1, err)
	if d.User["tarn:role"].Value != "x" || d.User["tarn:epoch"].Value != "" || d.GUID == 0 {
		t.Errorf("%+v", d)
	}
	_, err = h.Datasets(ctx, src.Name)
	costs("datasets", either(1, 2), err)
	_, err = h.VersionsBelow(ctx, src.Name)
	costs("versions below", 1, err)
	costs("full step", either(2, 3), transfer(t, h, zfs.SendRequest{Dataset: ds, To: "1"}, zfs.ReceiveRequest{Target: dst.Name + "/r@1"}))
	ok(t, os.WriteFile(dir+"/x", nil, 0o644))
	costs("snapshot", 1, h.Snapshot(ctx, ds+"@2"))
	costs("increment", either(2, 4), transfer(t, h, zfs.SendRequest{Dataset: ds, From: "@1", To: "2"}, zfs.ReceiveRequest{Target: dst.Name + "/r@2"}))
	costs("destroy", either(1, 3), h.DestroySnapshots(ctx, ds, "1", "2"))
	if !modern {
		return
	}
	other, _ := share(t, h, src, "o", 1)
	costs("setup", math.MaxInt, nil)
	costs("snapshot of two", 1, h.Snapshot(ctx, ds+"@3", other+"@3"))
	costs("hold of two", 1, h.Hold(ctx, "t", ds+"@3", other+"@3"))
	costs("release of two", 1, h.Release(ctx, "t", ds+"@3", other+"@3"))
	_, err = h.DecodeToken(ctx, realToken)
	costs("token", 0, err)
}
