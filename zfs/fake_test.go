package zfs_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tarn/zfs"
)

// fakeUsage makes a fake pass for OpenZFS 2.3.
const fakeUsage = `usage: zfs command args ...
	bookmark <snapshot|bookmark> <newbookmark>
	destroy [-dnpRrv] <filesystem|volume>@<snap>[%<snap>][,...]
	get [-rHp] [-j [--json-int]] [-d max] [-o "all" | field[,...]]
	    [-t type[,...]] [-s source[,...]]
	holds [-rHp] <snapshot> ...
	list [-Hp] [-j [--json-int]] [-r|-d max]
	receive [-vMnsFhu] [-o <property>=<value>] ... [-x <property>] ...
	send [-DLPbcehnpsVvw] [-i|-I snapshot]
	send [-nVvPe] -t <receive_resume_token>
	set [-u] <property=value> ... <filesystem|volume|snapshot> ...
	snapshot [-r] [-o property=value] ... <filesystem|volume>@<snap> ...
`

// fake is a zfs(8) that is a shell script: it answers the probe and then does body for
// everything else, with the verb in $1.
func fake(t *testing.T, body string) (cfg zfs.Config, dir string) {
	t.Helper()
	dir = t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\ndir=%s\n[ $# -gt 0 ] || { cat $dir/usage >&2; exit 2; }\n[ \"$1\" != version ] || { echo zfs-2.3.9-1; exit 0; }\n[ \"$1 $2\" != 'holds -H' ] || { echo \"cannot open 'x': dataset does not exist\" >&2; exit 1; }\n%s\n", dir, body)
	ok(t, os.WriteFile(dir+"/usage", []byte(fakeUsage), 0o600))
	ok(t, os.WriteFile(dir+"/zfs", []byte(script), 0o700))
	ok(t, os.WriteFile(dir+"/zpool", []byte("#!/bin/sh\n[ $# -gt 0 ] || { echo usage: >&2; exit 2; }\nexit 0\n"), 0o700))
	return zfs.Config{Pools: []string{"p"}, ZFS: dir + "/zfs", Zpool: dir + "/zpool"}, dir
}

// gone waits until the process whose id is in a file has ended.
func gone(t *testing.T, pidFile string) {
	t.Helper()
	var pid int
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 2000 {
		if b, err := os.ReadFile(pidFile); err == nil {
			if pid, err = strconv.Atoi(strings.TrimSpace(string(b))); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				return
			}
		}
		<-tick.C
	}
	t.Fatalf("process %d still runs", pid)
}

func TestToolMissing(t *testing.T) {
	cfg, dir := fake(t, "exit 0")
	for name, change := range map[string]func(*zfs.Config){
		"not there":     func(c *zfs.Config) { c.ZFS = dir + "/none" },
		"no zpool":      func(c *zfs.Config) { c.Zpool = dir + "/none" },
		"not a program": func(c *zfs.Config) { c.ZFS = dir + "/usage" },
		"another tool":  func(c *zfs.Config) { c.ZFS = "/bin/true" },
	} {
		bad := cfg
		change(&bad)
		_, err := zfs.Open(t.Context(), bad)
		if !errors.Is(err, zfs.ErrToolMissing) || !strings.Contains(err.Error(), "next: install") {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := openWith(t, cfg)
	ok(t, os.Remove(dir+"/zfs")) // an upgrade in progress
	_, err := h.Dataset(t.Context(), "p/x")
	fails(t, err, zfs.ErrToolMissing)
}

func fails(t *testing.T, err error, class error) {
	t.Helper()
	var e *zfs.Error
	if !errors.Is(err, class) || !errors.As(err, &e) {
		t.Fatalf("got %v, want %v", err, class)
	}
}

// TestHungCommand: the deadline ends the tool and the helper that it started, and the
// error says which command hung, how long, and where to look.
func TestHungCommand(t *testing.T) {
	cfg, dir := fake(t, "sleep 1000 & echo $! >$dir/helper; echo $$ >$dir/pid; wait")
	h := openWith(t, cfg)
	cfg.Deadline = 3 * time.Second // enough for the probe, on a slow machine too
	hasty := openWith(t, cfg)
	_, err := hasty.Dataset(t.Context(), "p/x")
	fails(t, err, zfs.ErrHung)
	for _, part := range []string{"zfs get", "p/x", "zpool status p", "no answer in"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not tell %q", err, part)
		}
	}
	gone(t, dir+"/pid")
	gone(t, dir+"/helper")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err = h.Dataset(ctx, "p/x")
	fails(t, err, context.Canceled)
	gone(t, dir+"/pid")
}

// TestStuckPool: a pool whose commands cannot even be killed gets no more of them.
func TestStuckPool(t *testing.T) {
	cfg, _ := fake(t, "exit 0")
	cfg.Pools = append(cfg.Pools, "q")
	h := openWith(t, cfg)
	h.Stuck("p", 4)
	err := h.Snapshot(t.Context(), "p/x@1")
	fails(t, err, zfs.ErrHung)
	if !strings.Contains(err.Error(), "zpool clear p") || !strings.Contains(err.Error(), "get all p") {
		t.Error(err)
	}
	_, err = h.Send(t.Context(), zfs.SendRequest{Dataset: "p/x", To: "1"})
	fails(t, err, zfs.ErrHung)
	fails(t, h.Receive(t.Context(), zfs.ReceiveRequest{Target: "p/y@1"}, bytes.NewReader(head(binary.LittleEndian, nil))), zfs.ErrHung)
	ok(t, h.Snapshot(t.Context(), "q/x@1"))
}

func TestForeignWords(t *testing.T) {
	cfg, _ := fake(t, "head -c 1000000 /dev/zero | tr '\\0' ä >&2; printf 'öffnen nicht möglich\\n\\377' >&2; exit 7")
	h := openWith(t, cfg)
	err := h.Snapshot(t.Context(), "p/x@1")
	fails(t, err, zfs.ErrUnclassified)
	if !strings.Contains(err.Error(), "by hand") || len(err.Error()) > 5000 {
		t.Errorf("%d bytes: %.100s", len(err.Error()), err)
	}
	cfg, _ = fake(t, "echo das ist keine Liste; exit 0")
	h = openWith(t, cfg)
	_, err = h.Datasets(t.Context(), "p")
	fails(t, err, zfs.ErrUnclassified)
	_, err = h.Versions(t.Context(), "p/x")
	fails(t, err, zfs.ErrUnclassified)
}

// TestEnvironment: the tools see the C locale and nothing of the agent's.
func TestEnvironment(t *testing.T) {
	t.Setenv("TARN_SECRET", "x")
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	cfg, dir := fake(t, "env >$dir/env; pwd >>$dir/env; exit 0")
	var mu sync.Mutex
	var calls []string
	cfg.Observe = func(c zfs.Call) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, c.Op)
	}
	ok(t, openWith(t, cfg).Snapshot(t.Context(), "p/x@1"))
	b, err := os.ReadFile(dir + "/env")
	ok(t, err)
	if s := string(b); !strings.Contains(s, "LC_ALL=C\n") || strings.Contains(s, "SECRET") || !strings.HasSuffix(s, "\n/\n") {
		t.Error(s)
	}
	if mu.Lock(); calls[len(calls)-1] != "snapshot" {
		t.Error(calls)
	}
	mu.Unlock()
}

// TestRefusedBeforeExec: nothing of this starts a process.
func TestRefusedBeforeExec(t *testing.T) {
	cfg, dir := fake(t, "echo $* >>$dir/ran; exit 0")
	h := openWith(t, cfg)
	ctx := t.Context()
	for name, err := range map[string]error{
		"flag as dataset":     h.Destroy(ctx, "-r"),
		"pool itself":         h.Destroy(ctx, "p"),
		"snapshot as dataset": h.Destroy(ctx, "p/x@1"),
		"range":               h.DestroySnapshots(ctx, "p/x", "a%b"),
		"list in one name":    h.DestroySnapshots(ctx, "p/x", "a,b"),
		"empty name":          h.DestroySnapshots(ctx, "p/x", ""),
		"flag as tag":         h.Hold(ctx, "-r", "p/x@1"),
		"newline":             h.Set(ctx, "p/x", map[string]string{"readonly": "on\n"}),
		"native unknown":      h.Set(ctx, "p/x", map[string]string{"dedup": "on"}),
		"all":                 h.Inherit(ctx, "p/x", "all"),
		"two of one":          h.Snapshot(ctx, "p/x@1", "p/x@2"),
		"option as property":  h.Inherit(ctx, "p/x", "-r"),
	} {
		if !errors.Is(err, zfs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	fails(t, h.Destroy(ctx, "other/x"), zfs.ErrNotExist)
	if b, err := os.ReadFile(filepath.Join(dir, "ran")); err == nil {
		t.Errorf("ran: %s", b)
	}
}

// TestStreamProcesses: whatever ends a stream, no process outlives it.
func TestStreamProcesses(t *testing.T) {
	cfg, dir := fake(t, `echo $$ >$dir/pid
case $1 in
send) while :; do echo data; done ;;
receive) sleep 1000 ;;
esac`)
	h := openWith(t, cfg)
	req := zfs.SendRequest{Dataset: "p/x", To: "1"}
	s, err := h.Send(t.Context(), req)
	ok(t, err)
	ok(t, s.Close())
	gone(t, dir+"/pid")

	ctx, cancel := context.WithCancel(t.Context())
	s, err = h.Send(ctx, req)
	ok(t, err)
	cancel()
	_, err = io.Copy(io.Discard, s)
	ok(t, errors.Join(err, ignoreKilled(s.Close())))
	gone(t, dir+"/pid")

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	time.AfterFunc(100*time.Millisecond, cancel)
	endless := io.MultiReader(bytes.NewReader(head(binary.LittleEndian, nil)), zeros{})
	fails(t, h.Receive(ctx, zfs.ReceiveRequest{Target: "p/y@1"}, endless), context.Canceled)
	gone(t, dir+"/pid")
}

// TestSenderThatDoesNotEnd: whoever reads from it is let go when the context ends. The
// kernel keeps a sender from ending on a suspended pool; here somebody out of reach keeps
// its pipe.
func TestSenderThatDoesNotEnd(t *testing.T) {
	cfg, dir := fake(t, `[ "$1 $2" = "send p/x@begun" ] && echo data
setsid sh -c "echo \$\$ >>$dir/left; exec sleep 1000" 2>/dev/null &`)
	left := func() []string {
		pids, _ := os.ReadFile(dir + "/left")
		return strings.Fields(string(pids))
	}
	t.Cleanup(func() {
		for _, pid := range left() {
			if pid, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	h := openWith(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := h.Send(ctx, zfs.SendRequest{Dataset: "p/x", To: "silent"})
		fails(t, err, context.Canceled)
	})
	wg.Go(func() {
		s, err := h.Send(ctx, zfs.SendRequest{Dataset: "p/x", To: "begun"})
		if err == nil {
			_, err = io.Copy(io.Discard, s)
			_ = s.Close()
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for len(left()) < 2 {
		<-tick.C
	}
	cancel()
	wg.Wait()
}

// ignoreKilled: a sender that its context ended says so in its own way.
func ignoreKilled(err error) error {
	var e *zfs.Error
	if errors.As(err, &e) {
		return nil
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestReceiverDiesFirst: the call ends although nobody feeds or closes its stream.
func TestReceiverDiesFirst(t *testing.T) {
	cfg, _ := fake(t, `[ "$1" = receive ] && { echo "cannot receive new filesystem stream: out of space" >&2; exit 1; }; exit 0`)
	h := openWith(t, cfg)
	r, w := io.Pipe()
	defer w.Close() //nolint:errcheck // a pipe in memory
	err := h.Receive(t.Context(), zfs.ReceiveRequest{Target: "p/y@1"}, io.MultiReader(bytes.NewReader(head(binary.LittleEndian, nil)), r))
	fails(t, err, zfs.ErrNoSpace)
	// One that reads to the end: otherwise either side may be the first to fail.
	cfg, _ = fake(t, `[ "$1" = receive ] && { cat >/dev/null; echo "cannot receive new filesystem stream: out of space" >&2; exit 1; }; exit 0`)
	h = openWith(t, cfg)
	err = h.Receive(t.Context(), zfs.ReceiveRequest{Target: "p/y@1"}, iotestErr{head(binary.LittleEndian, nil)})
	fails(t, err, zfs.ErrStreamTruncated)
}

// iotestErr gives a head and then fails.
type iotestErr struct{ head []byte }

func (r iotestErr) Read(p []byte) (int, error) {
	if len(p) == len(r.head) {
		return copy(p, r.head), nil
	}
	return 0, errors.New("connection reset by peer")
}

// TestTokenOfAnotherHost: what a source that is none any more gave is dead, and said to be.
func TestTokenOfAnotherHost(t *testing.T) {
	cfg, _ := fake(t, "exit 0")
	_, err := openWith(t, cfg).Send(t.Context(), zfs.SendRequest{ResumeToken: realToken}) // of pool a
	fails(t, err, zfs.ErrTokenInvalid)
}

// TestStreamFlagsInCommand checks what is asked of zfs send and receive.
func TestStreamFlagsInCommand(t *testing.T) {
	cfg, dir := fake(t, `echo "$*" >>$dir/ran; cat >/dev/null; echo x; exit 0`)
	h := openWith(t, cfg)
	for _, req := range []zfs.SendRequest{
		{Dataset: "p/x", To: "2", From: "@1", Flags: zfs.StreamFlags{Compressed: true, LargeBlocks: true}},
		{Dataset: "p/x", To: "2", From: "#m", Flags: zfs.StreamFlags{Raw: true}},
	} {
		s, err := h.Send(t.Context(), req)
		ok(t, err)
		_, err = io.Copy(io.Discard, s)
		ok(t, errors.Join(err, s.Close()))
	}
	full := bytes.NewReader(head(binary.LittleEndian, nil))
	ok(t, h.Receive(t.Context(), zfs.ReceiveRequest{Target: "p/y@1", Resumable: true, Properties: map[string]string{"readonly": "on", "tarn:a": "b c"}}, full))
	b, err := os.ReadFile(dir + "/ran")
	ok(t, err)
	got := strings.Split(strings.TrimSpace(string(b)), "\n")
	want := []string{
		"send -c -L -i p/x@1 p/x@2",
		"send -w -i p/x#m p/x@2",
		"receive -u -s -o canmount=noauto -o readonly=on -o tarn:a=b c p/y@1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("ran %q, want %q", got, want)
	}
}

// TestCommandsTakeTurns: however many ask at once, so many processes run and no more.
func TestCommandsTakeTurns(t *testing.T) {
	cfg, dir := fake(t, "mkdir $dir/run.$$; ls -d $dir/run.* | wc -l >>$dir/seen; sleep 0.1; rmdir $dir/run.$$; echo \"cannot open 'x': dataset does not exist\" >&2; exit 1")
	h := openWith(t, cfg)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			_, err := h.Dataset(t.Context(), fmt.Sprint("p/", i))
			fails(t, err, zfs.ErrNotExist)
		})
	}
	wg.Wait()
	seen, err := os.ReadFile(dir + "/seen")
	ok(t, err)
	for n := range strings.FieldsSeq(string(seen)) {
		if n, err := strconv.Atoi(n); err != nil || n > 32 {
			t.Fatalf("%d at once (%v)", n, err)
		}
	}
}
