package dirzfs_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tarn/zfs"
	"tarn/zfs/dirzfs"
	"tarn/zfs/zfstest"
)

// The crash tests run a script in a child process, which is this test binary again,
// and end the child with SIGKILL. The script is level-triggered: run again, it
// completes whatever is missing. Its end must be the same wherever it was cut.

const (
	crashDir   = "TARN_DIRZFS_CRASH_DIR"
	crashPoint = "TARN_DIRZFS_CRASH_POINT" // "name#n": die at the nth time
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := crashChild(dir, os.Getenv(crashPoint)); err != nil {
			fmt.Println("child:", err)
			os.Exit(1)
		}
		fmt.Println("done")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func crashPools(dir string) []dirzfs.Pool {
	return []dirzfs.Pool{{Name: "a", Dir: dir + "/a"}, {Name: "b", Dir: dir + "/b"}}
}

func crashChild(dir, point string) error {
	name, nth, _ := strings.Cut(point, "#")
	seen := map[string]int{}
	steps := make(chan string)
	reply := make(chan bool)
	go func() { // steps come from several goroutines
		for s := range steps {
			seen[s]++
			reply <- s == name && fmt.Sprint(seen[s]) == nth
		}
	}()
	cfg := dirzfs.Config{Pools: crashPools(dir), Logger: slog.New(slog.DiscardHandler)}
	h, err := dirzfs.OpenStepped(cfg, func(s string) {
		fmt.Println("step", s)
		steps <- s
		if <-reply {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	})
	if err != nil {
		return err
	}
	if err := crashScript(context.Background(), h); err != nil {
		return err
	}
	return h.Close()
}

// script drives a host to its end.
type script struct {
	h   *dirzfs.Host
	ctx context.Context
}

func crashScript(ctx context.Context, h *dirzfs.Host) error {
	s := script{h, ctx}
	for _, part := range []func() error{s.source, s.replica, s.increment, s.masks, s.force, s.rollback, s.clones, s.renames, s.prune} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (s script) has(full string) bool {
	ds, name, _ := zfs.ValidateSnapshot(full)
	list, _ := s.h.Versions(s.ctx, ds)
	for _, v := range list {
		if v.Kind == zfs.KindSnapshot && v.Name == name {
			return true
		}
	}
	return false
}

func (s script) past(mark string) bool {
	p, err := s.h.Get(s.ctx, "a", "tarn:"+mark)
	return err == nil && p["tarn:"+mark].Value == "done"
}

// once runs fn until it was completed once.
func (s script) once(mark string, fn func() error) error {
	if s.past(mark) {
		return nil
	}
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", mark, err)
	}
	return s.h.Set(s.ctx, "a", map[string]string{"tarn:" + mark: "done"})
}

func (s script) mountpoint(ds string) string {
	d, _ := s.h.Dataset(s.ctx, ds)
	return d.Mountpoint
}

func (s script) create(ds string) error {
	if err := s.h.Create(s.ctx, ds, nil, false); err != nil && !errors.Is(err, zfs.ErrExists) {
		return err
	}
	return s.h.Mount(s.ctx, ds)
}

func (s script) snapshot(full string) error {
	if s.has(full) {
		return nil
	}
	return s.h.Snapshot(s.ctx, full)
}

// pull receives, resuming or starting over as the target's state says.
func (s script) pull(req zfs.SendRequest, target string) error {
	if s.has(target) {
		return nil
	}
	ds, _, _ := zfs.ValidateSnapshot(target)
	if d, err := s.h.Dataset(s.ctx, ds); err == nil && d.ResumeToken != "" {
		req = zfs.SendRequest{ResumeToken: d.ResumeToken}
	}
	stream, err := s.h.Send(s.ctx, req)
	if err != nil {
		return err
	}
	err = s.h.Receive(s.ctx, zfs.ReceiveRequest{Target: target, Resumable: true}, stream)
	return errors.Join(err, stream.Close())
}

// pattern is reproducible content that does not compress.
func pattern(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func (s script) source() error {
	return s.once("source", func() error {
		if err := s.create("a/x"); err != nil {
			return err
		}
		mp := s.mountpoint("a/x")
		for i := range 7 {
			if err := os.WriteFile(fmt.Sprintf("%s/f%d", mp, i), pattern(uint64(i), 1<<20), 0o640); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(mp+"/d", 0o750); err != nil {
			return err
		}
		return s.snapshot("a/x@1")
	})
}

func (s script) replica() error {
	return s.once("replica", func() error {
		if err := s.pull(zfs.SendRequest{Dataset: "a/x", To: "1"}, "b/y@1"); err != nil {
			return err
		}
		if err := s.h.Set(s.ctx, "b/y", map[string]string{"readonly": "on"}); err != nil {
			return err
		}
		return s.h.Mount(s.ctx, "b/y")
	})
}

func (s script) increment() error {
	err := s.once("change", func() error {
		mp := s.mountpoint("a/x")
		if err := os.WriteFile(mp+"/d/new", pattern(100, 300<<10), 0o604); err != nil {
			return err
		}
		if err := os.RemoveAll(mp + "/f3"); err != nil {
			return err
		}
		return os.WriteFile(mp+"/f1", []byte("short"), 0o600)
	})
	if err != nil {
		return err
	}
	return s.once("increment", func() error {
		if err := s.snapshot("a/x@2"); err != nil {
			return err
		}
		return s.pull(zfs.SendRequest{Dataset: "a/x", From: "@1", To: "2"}, "b/y@2")
	})
}

func (s script) masks() error {
	return s.once("masks", func() error {
		if err := s.h.Mount(s.ctx, "a/x"); err != nil {
			return err
		}
		if err := s.h.Set(s.ctx, "a/x", map[string]string{"readonly": "on"}); err != nil {
			return err
		}
		return s.h.Set(s.ctx, "a/x", map[string]string{"readonly": "off"})
	})
}

func (s script) force() error {
	return s.once("force", func() error {
		if err := s.h.Mount(s.ctx, "a/x"); err != nil {
			return err
		}
		f, err := os.Open(s.mountpoint("a/x") + "/f1")
		if err != nil {
			return err
		}
		err = s.h.Unmount(s.ctx, "a/x", true)
		return errors.Join(err, f.Close(), s.h.Mount(s.ctx, "a/x"))
	})
}

func (s script) rollback() error {
	return s.once("rollback", func() error {
		if err := s.h.Mount(s.ctx, "a/x"); err != nil {
			return err
		}
		mp := s.mountpoint("a/x")
		if err := errors.Join(os.WriteFile(mp+"/d/new", []byte("oops"), 0o600), os.WriteFile(mp+"/oops", nil, 0o600)); err != nil {
			return err
		}
		return s.h.Rollback(s.ctx, "a/x@2")
	})
}

func (s script) clones() error {
	return s.once("clones", func() error {
		if err := s.h.Clone(s.ctx, "b/y@1", "b/c", nil); err != nil && !errors.Is(err, zfs.ErrExists) && !errors.Is(err, zfs.ErrNotExist) {
			return err
		}
		if err := s.h.Mount(s.ctx, "b/c"); err != nil && !errors.Is(err, zfs.ErrNotExist) {
			return err
		}
		if err := s.h.Destroy(s.ctx, "b/c"); err != nil && !errors.Is(err, zfs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func (s script) renames() error {
	return s.once("renames", func() error {
		if err := s.h.Rename(s.ctx, "b/y", "b/z"); err != nil && !errors.Is(err, zfs.ErrNotExist) {
			return err
		}
		if err := s.h.Rename(s.ctx, "b/z", "b/y"); err != nil && !errors.Is(err, zfs.ErrNotExist) {
			return err
		}
		return s.h.Mount(s.ctx, "b/y")
	})
}

func (s script) prune() error {
	for _, ds := range []string{"a/x", "b/y"} {
		if err := s.h.DestroySnapshots(s.ctx, ds, "1"); err != nil && !errors.Is(err, zfs.ErrNotExist) {
			return err
		}
		if err := s.h.Mount(s.ctx, ds); err != nil {
			return err
		}
	}
	return nil
}

// runChild runs the script until its end or the crash point.
func runChild(t *testing.T, dir, point string) (steps []string, killed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir, crashPoint+"="+point)
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	var said []string
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if s, isStep := strings.CutPrefix(sc.Text(), "step "); isStep {
			steps = append(steps, s)
		} else {
			said = append(said, sc.Text())
		}
	}
	err = cmd.Wait()
	if strings.Join(said, "") == "done" && err == nil {
		return steps, false
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return steps, true
	}
	t.Fatalf("child at %s: %v\n%s", point, err, strings.Join(said, "\n"))
	return nil, false
}

// verifyEnd checks that the script's end is the one it always has.
func verifyEnd(t *testing.T, dir string) {
	t.Helper()
	h := open(t, crashPools(dir)...)
	var guids [2]zfs.GUID
	var trees [2]map[string]zfstest.Node
	for i, ds := range []string{"a/x", "b/y"} {
		d, err := h.Dataset(t.Context(), ds)
		ok(t, err)
		if !d.Mounted || d.Written != 0 || d.ResumeToken != "" {
			t.Errorf("%+v", d)
		}
		v, err := h.Versions(t.Context(), ds)
		ok(t, err)
		if len(v) != 1 {
			t.Fatalf("versions of %s: %+v", ds, v)
		}
		guids[i] = v[0].GUID
		trees[i], err = zfstest.ReadTree(d.Mountpoint)
		ok(t, err)
	}
	for path, n := range trees[0] {
		n.Mode &^= 0o222
		trees[0][path] = n
	}
	if d := zfstest.DiffTree(trees[0], trees[1]); d != "" || guids[0] != guids[1] || len(trees[0]) != 9 {
		t.Errorf("GUIDs %v, %d nodes, differences:\n%s", guids, len(trees[0]), d)
	}
	if b, err := os.ReadFile(filepath.Join(crashPools(dir)[0].Dir, "mnt/a/x/d/new")); err != nil || string(b) != string(pattern(100, 300<<10)) {
		t.Errorf("content of d/new: %v", err)
	}
}

// TestCrashAtEveryStep kills the process at each step that the script passes, and
// runs the script to its end afterwards.
func TestCrashAtEveryStep(t *testing.T) {
	dir := t.TempDir()
	steps, killed := runChild(t, dir, "")
	if killed {
		t.Fatal("killed without a crash point")
	}
	verifyEnd(t, dir)
	count := map[string]int{}
	for _, s := range steps {
		count[s]++
		if count[s] > 1 && testing.Short() || count[s] > 2 {
			continue
		}
		point := fmt.Sprintf("%s#%d", s, count[s])
		t.Run(strings.ReplaceAll(point, " ", "-"), func(t *testing.T) {
			dir := t.TempDir()
			if _, killed := runChild(t, dir, point); !killed {
				t.Fatalf("the script does not pass %s", point)
			}
			if _, killed := runChild(t, dir, ""); killed {
				t.Fatal("killed without a crash point")
			}
			verifyEnd(t, dir)
		})
	}
}

// TestCrashBeforeFilesOfIncrement kills the process when an increment of a mounted
// dataset is on record and its files are still those of before: the next process
// brings them though nobody asks it for anything.
func TestCrashBeforeFilesOfIncrement(t *testing.T) {
	dir := t.TempDir()
	if _, killed := runChild(t, dir, "received#2"); !killed {
		t.Fatal("the script does not receive twice")
	}
	h := open(t, crashPools(dir)...)
	var trees [2]map[string]zfstest.Node
	for i, ds := range []string{"a/x", "b/y"} {
		d, err := h.Dataset(t.Context(), ds)
		ok(t, err)
		list, err := h.Versions(t.Context(), ds)
		ok(t, err)
		if !d.Mounted || len(list) != 2 {
			t.Fatalf("%+v, versions %+v", d, list)
		}
		trees[i], err = zfstest.ReadTree(d.Mountpoint)
		ok(t, err)
	}
	for path, n := range trees[0] {
		n.Mode &^= 0o222
		trees[0][path] = n
	}
	if d := zfstest.DiffTree(trees[0], trees[1]); d != "" {
		t.Errorf("the mounted copy is not what its newest snapshot has:\n%s", d)
	}
}

// TestCrashAnywhere kills the process after a random number of bytes of its own
// output and disk writes, several times in a row.
func TestCrashAnywhere(t *testing.T) {
	dir := t.TempDir()
	for range 12 {
		killAtRandom(t, dir)
		h := open(t, crashPools(dir)...)
		for _, p := range []string{"a", "b"} {
			ok(t, h.Scrub(t.Context(), p))
		}
		ok(t, h.Close())
	}
	if _, killed := runChild(t, dir, ""); killed {
		t.Fatal("killed without a crash point")
	}
	verifyEnd(t, dir)
}

// killAtRandom lets the child pass a random number of steps and kills it from
// outside, wherever it is by then.
func killAtRandom(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir, crashPoint+"=")
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	sc := bufio.NewScanner(out)
	for range 1 + rand.IntN(8) {
		if !sc.Scan() {
			break
		}
	}
	_ = cmd.Process.Kill() // it may have ended
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait() // killed, or done
}
