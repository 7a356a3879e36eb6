package zfstest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"tarn/zfs"
)

func streamTests() map[string]func(*testing.T, *suite) {
	return map[string]func(*testing.T, *suite){
		"full":      testFull,
		"increment": testIncrement,
		"refusals":  testRefusals,
		"modified":  testModified,
		"truncated": testTruncated,
		"flips":     testFlips,
		"garbage":   testGarbage,
		"estimate":  testEstimate,
		"early":     testCloseEarly,
	}
}

func testFull(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "f")
	writeFile(t, dir+"/f", random(1<<20))
	s.snap(t, ds+"@1")
	ok(t, s.Host.Set(ctx, ds, map[string]string{"tarn:secret": "stays"}))
	to := s.Target + "/f"
	ok(t, s.tryTransfer(ctx, zfs.SendRequest{Dataset: ds, To: "1"},
		zfs.ReceiveRequest{Target: to + "@renamed", Properties: map[string]string{"tarn:mark": "m", zfs.PropReadOnly: "on"}}))
	d := s.get(t, to)
	if d.Mounted || !d.ReadOnly || d.User["tarn:mark"].Value != "m" || s.caps.Written && d.Written != 0 {
		t.Errorf("received %+v", d)
	}
	if _, leaked := d.User["tarn:secret"]; leaked {
		t.Error("properties travel in the stream")
	}
	if a, b := s.version(t, ds+"@1"), s.version(t, to+"@renamed"); a.GUID != b.GUID || !a.Creation.Equal(b.Creation) {
		t.Errorf("%+v became %+v", a, b)
	}
	ok(t, s.Host.Mount(ctx, to))
	sameTree(t, readTree(t, dir), readTree(t, s.mountpoint(t, to)))
}

// testIncrement receives into a mounted read-only filesystem, which shows each
// snapshot when its receive is done.
func testIncrement(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "i")
	writeFile(t, dir+"/big", random(3<<20))
	s.snap(t, ds+"@0")
	to := s.Target + "/i"
	ok(t, s.tryTransfer(ctx, zfs.SendRequest{Dataset: ds, To: "0"},
		zfs.ReceiveRequest{Target: to + "@0", Properties: map[string]string{zfs.PropReadOnly: "on"}}))
	ok(t, s.Host.Mount(ctx, to))
	steps := []func(){
		func() { overwrite(t, dir+"/big", 1<<20, random(4<<10)) },
		func() { ok(t, os.Rename(dir+"/big", dir+"/moved")); writeFile(t, dir+"/big", []byte("small")) },
		func() {
			ok(t, os.Remove(dir+"/big"))
			ok(t, os.Mkdir(dir+"/big", 0o755))
			writeFile(t, dir+"/big/x", []byte("1"))
		},
		func() { ok(t, os.RemoveAll(dir+"/big")); ok(t, os.Symlink("moved", dir+"/big")) },
		func() { ok(t, os.Truncate(dir+"/moved", 100)) },
		func() {},
	}
	for i, step := range steps {
		step()
		from, next := string(rune('0'+i)), string(rune('1'+i))
		s.snap(t, ds+"@"+next)
		s.transfer(t, ds, "@"+from, next, to+"@"+next)
		sameTree(t, readTree(t, dir), readTree(t, s.mountpoint(t, to)))
	}
	s.snap(t, ds+"@z")
	s.transfer(t, ds, "@6", "z", to+"@z")
}

func testRefusals(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "r")
	for _, n := range []string{"1", "2", "3"} {
		writeFile(t, dir+"/f", []byte(n))
		s.snap(t, ds+"@"+n)
	}
	to := s.Target + "/r"
	full := zfs.SendRequest{Dataset: ds, To: "1"}
	fails(t, s.tryTransfer(ctx, full, zfs.ReceiveRequest{Target: s.Target + "/no/parent@1"}), zfs.ErrNotExist)
	ok(t, s.tryTransfer(ctx, full, zfs.ReceiveRequest{Target: to + "@1"}))
	fails(t, s.tryTransfer(ctx, full, zfs.ReceiveRequest{Target: to + "@1"}), zfs.ErrExists)
	fails(t, s.tryTransfer(ctx, full, zfs.ReceiveRequest{Target: to + "@other"}), zfs.ErrExists)
	fails(t, s.tryTransfer(ctx, zfs.SendRequest{Dataset: ds, From: "@2", To: "3"}, zfs.ReceiveRequest{Target: to + "@3"}), zfs.ErrDiverged)
	s.transfer(t, ds, "@1", "2", to+"@2")
	fails(t, s.tryTransfer(ctx, zfs.SendRequest{Dataset: ds, From: "@1", To: "3"}, zfs.ReceiveRequest{Target: to + "@3"}), zfs.ErrDiverged)
	fails(t, s.tryTransfer(ctx, zfs.SendRequest{Dataset: ds, From: "@2", To: "3"}, zfs.ReceiveRequest{Target: to + "@1"}), zfs.ErrExists)
	fails(t, s.tryTransfer(ctx, zfs.SendRequest{Dataset: ds, From: "@2", To: "3"}, zfs.ReceiveRequest{Target: s.Target + "/none@3"}), zfs.ErrNotExist)
	_, err := s.Host.Send(ctx, zfs.SendRequest{Dataset: ds, From: "@none", To: "3"})
	fails(t, err, zfs.ErrBaseMissing)
	_, err = s.Host.Send(ctx, zfs.SendRequest{Dataset: ds, To: "none"})
	fails(t, err, zfs.ErrNotExist)
	fails(t, s.Host.Receive(ctx, zfs.ReceiveRequest{Target: s.Target + "/x"}, bytes.NewReader(nil)), zfs.ErrInvalid)
	s.transfer(t, ds, "@2", "3", to+"@3")
}

func testModified(t *testing.T, s *suite) {
	ctx := t.Context()
	ds, dir := s.create(t, "mod")
	writeFile(t, dir+"/f", []byte("1"))
	s.snap(t, ds+"@1")
	to := s.Target + "/mod"
	s.transfer(t, ds, "", "1", to+"@1")
	ok(t, s.Host.Mount(ctx, to))
	writeFile(t, s.mountpoint(t, to)+"/mine", []byte("do not lose this"))
	writeFile(t, dir+"/f", []byte("2"))
	s.snap(t, ds+"@2")
	fails(t, s.tryTransfer(ctx, zfs.SendRequest{Dataset: ds, From: "@1", To: "2"}, zfs.ReceiveRequest{Target: to + "@2"}), zfs.ErrModified)
	if got := readFile(t, s.mountpoint(t, to)+"/mine"); string(got) != "do not lose this" {
		t.Errorf("a refused receive changed the target: %q", got)
	}
	ok(t, s.Host.Rollback(ctx, to+"@1"))
	s.transfer(t, ds, "@1", "2", to+"@2")
}

// record keeps a whole stream.
func (s *suite) record(t *testing.T, req zfs.SendRequest) []byte {
	t.Helper()
	stream, err := s.Host.Send(t.Context(), req)
	ok(t, err)
	all, err := io.ReadAll(stream)
	ok(t, errors.Join(err, stream.Close()))
	return all
}

// sample is a dataset with a small full stream and a small increment.
func (s *suite) sample(t *testing.T, name string) (ds, dir string) {
	t.Helper()
	ds, dir = s.create(t, name)
	writeFile(t, dir+"/a", random(150<<10))
	ok(t, os.Mkdir(dir+"/d", 0o755))
	writeFile(t, dir+"/d/b", random(70<<10))
	s.snap(t, ds+"@1")
	for _, n := range []string{"/d/b", "/d/c", "/e", "/f"} {
		writeFile(t, dir+n, random(30<<10))
	}
	s.snap(t, ds+"@2")
	return ds, dir
}

func testTruncated(t *testing.T, s *suite) {
	ds, _ := s.sample(t, "t")
	all := s.record(t, zfs.SendRequest{Dataset: ds, To: "1"})
	for i := 0; i < len(all); i += 1 + len(all)/40 {
		err := s.Host.Receive(t.Context(), zfs.ReceiveRequest{Target: s.Target + "/t@1"}, bytes.NewReader(all[:i]))
		fails(t, err, s.cut()...)
		_, err = s.Host.Dataset(t.Context(), s.Target+"/t")
		fails(t, err, zfs.ErrNotExist)
	}
	ok(t, s.Host.Receive(t.Context(), zfs.ReceiveRequest{Target: s.Target + "/t@1"}, bytes.NewReader(all)))
}

// cut are the classes of a stream that ends too early. Engines that cannot resume do
// not tell it from a damaged one.
func (s *suite) cut() []error {
	if s.caps.Resume {
		return []error{zfs.ErrStreamTruncated}
	}
	return []error{zfs.ErrStreamTruncated, zfs.ErrStreamCorrupt}
}

// slowTime is how long a repeated test of an engine of real processes goes on.
const slowTime = 30 * time.Second

func testFlips(t *testing.T, s *suite) {
	const flips = 200
	ds, _ := s.sample(t, "flip")
	all := s.record(t, zfs.SendRequest{Dataset: ds, To: "1"})
	rng := rand.New(rand.NewPCG(1, uint64(len(all))))
	begun := time.Now()
	for i := range flips {
		if s.Slow && i >= 40 && time.Since(begun) > slowTime {
			t.Logf("%d of %d flips in %v", i, flips, slowTime)
			break
		}
		at := rng.IntN(len(all))
		if i < 100 {
			at = rng.IntN(min(len(all), 600)) // the heads are the delicate part
		}
		bad := bytes.Clone(all)
		bad[at] ^= 1 << rng.IntN(8)
		err := s.Host.Receive(t.Context(), zfs.ReceiveRequest{Target: s.Target + "/flip@1"}, bytes.NewReader(bad))
		if err == nil && at >= len(all)-zfs.StreamHeadSize && s.version(t, s.Target+"/flip@1").GUID == s.version(t, ds+"@1").GUID {
			// The last record of a ZFS stream has bytes that mean nothing.
			ok(t, s.Host.DestroySnapshots(t.Context(), s.Target+"/flip", "1"))
			ok(t, s.Host.Destroy(t.Context(), s.Target+"/flip"))
			continue
		}
		if err == nil {
			t.Fatalf("bit flipped at byte %d of %d was not noticed", at, len(all))
		}
		fails(t, err, damaged(at)...)
		if _, err := s.Host.Dataset(t.Context(), s.Target+"/flip"); err == nil {
			t.Fatalf("flip at %d left a dataset", at)
		}
	}
}

// damaged are the classes of a flip at a byte. In the head it may look like another
// stream, which does not fit, or like one that is refused.
func damaged(at int) []error {
	classes := []error{zfs.ErrStreamCorrupt, zfs.ErrStreamTruncated}
	if at < zfs.StreamHeadSize {
		classes = append(classes, zfs.ErrStreamRefused, zfs.ErrNotExist, zfs.ErrUnsupported, zfs.ErrDiverged, zfs.ErrStreamFlags)
	}
	return classes
}

func testGarbage(t *testing.T, s *suite) {
	ds, _ := s.sample(t, "g")
	all := s.record(t, zfs.SendRequest{Dataset: ds, To: "1"})
	target := zfs.ReceiveRequest{Target: s.Target + "/g@1"}
	fails(t, s.Host.Receive(t.Context(), target, bytes.NewReader(random(1<<20))), zfs.ErrStreamCorrupt)
	fails(t, s.Host.Receive(t.Context(), target, io.MultiReader(bytes.NewReader(all[:len(all)/2]), errReader{})), zfs.ErrStreamTruncated)
	_, err := s.Host.Dataset(t.Context(), s.Target+"/g")
	fails(t, err, zfs.ErrNotExist)
	// What follows the end is either refused or not read; it never becomes data.
	if err := s.Host.Receive(t.Context(), target, bytes.NewReader(append(bytes.Clone(all), 'x'))); err != nil {
		fails(t, err, zfs.ErrStreamCorrupt)
		ok(t, s.Host.Receive(t.Context(), target, bytes.NewReader(all)))
	}
	if a, b := s.version(t, ds+"@1"), s.version(t, target.Target); a.GUID != b.GUID {
		t.Errorf("GUID %v became %v", a.GUID, b.GUID)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func testEstimate(t *testing.T, s *suite) {
	ds, dir := s.create(t, "e")
	writeFile(t, dir+"/f", random(4<<20))
	s.snap(t, ds+"@1")
	writeFile(t, dir+"/g", random(1<<20))
	s.snap(t, ds+"@2")
	for _, req := range []zfs.SendRequest{{Dataset: ds, To: "1"}, {Dataset: ds, From: "@1", To: "2"}} {
		n, err := s.Host.Estimate(t.Context(), req)
		ok(t, err)
		if real := int64(len(s.record(t, req))); n != 0 && (n < real*8/10 || n > real*12/10) {
			t.Errorf("estimate %d of %d", n, real)
		}
	}
}

func testCloseEarly(t *testing.T, s *suite) {
	ds, dir := s.create(t, "c")
	writeFile(t, dir+"/f", random(8<<20))
	s.snap(t, ds+"@1")
	stream, err := s.Host.Send(t.Context(), zfs.SendRequest{Dataset: ds, To: "1"})
	ok(t, err)
	_, err = io.ReadFull(stream, make([]byte, 1<<20))
	ok(t, err)
	if err := s.Host.DestroySnapshots(t.Context(), ds, "1"); err == nil {
		t.Error("a snapshot was destroyed while it was sent")
	} else {
		fails(t, err, zfs.ErrBusy, zfs.ErrHeld)
	}
	_ = stream.Close() // an engine may or may not call this an error
	ok(t, s.Host.DestroySnapshots(t.Context(), ds, "1"))
}
