package nfs3

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestNoRequestBeginsInATreeThatIsGone: one has found the tree, and begins only after it was
// taken away.
func TestNoRequestBeginsInATreeThatIsGone(t *testing.T) {
	r := newRig(t, nil, t.TempDir())
	found := r.server.byFSID(testFSID)
	if err := r.server.Unexport(context.Background(), r.dir); err != nil {
		t.Fatal(err)
	}
	c := &call{session: &session{Server: r.server, peer: netip.MustParseAddr("127.0.0.1")}}
	err := c.inside(found, writes, func(*place, Export, bool) error {
		t.Error("a request runs in a tree that was taken away")
		return nil
	})
	if !errors.Is(err, statusJukebox) {
		t.Error(err)
	}
}

// written is the verifier that a write is answered with.
func (r *rig) written(handle []byte, stable int) (status, [8]byte) {
	r.t.Helper()
	s, d := r.call(procWrite, handle, uint64(0), 4, stable, "data")
	var v [8]byte
	if s == statusOK {
		_ = d.flag()
		r.skipAttributes(d)
		_, _ = d.u32(), d.u32()
		d.read(v[:])
	}
	return s, v
}

// committed is the verifier that a commit is answered with.
func (r *rig) committed(handle []byte) [8]byte {
	r.t.Helper()
	s, d := r.call(procCommit, handle, uint64(0), 0)
	if s != statusOK {
		r.t.Fatal(s)
	}
	var v [8]byte
	_ = d.flag()
	r.skipAttributes(d)
	d.read(v[:])
	return v
}

// TestVerifierChangesWhenWritesMayBeLost: the system tells one alone that a file could not be
// written; the next to ask is told that all is well.
func TestVerifierChangesWhenWritesMayBeLost(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "content")
	var broken atomic.Bool
	r := newRig(t, func(c *Config) {
		c.sync = func(f *os.File) error {
			if broken.CompareAndSwap(true, false) {
				return errors.New("input/output error")
			}
			return f.Sync()
		}
	}, dir)
	f := r.lookup(r.root(), "f")
	_, before := r.written(f, unstable)
	if r.committed(f) != before {
		t.Fatal("the verifier changes for no reason")
	}
	broken.Store(true)
	if s, _ := r.written(f, fileSync); s != statusIO {
		t.Fatal(s)
	}
	after := r.committed(f)
	if after == before {
		t.Error("a commit confirms an unstable write of which another request has heard that it failed")
	}

	// Another host may have had the share meanwhile.
	if err := r.server.Unexport(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	if err := r.server.Export(Export{Path: dir, FSID: testFSID, Squash: SquashNone, Access: anybody}); err != nil {
		t.Fatal(err)
	}
	if r.committed(f) == after {
		t.Error("a tree that was taken away and came back has the verifier of before")
	}
}

// TestCreateNeverHandsOutAnotherFile: another client moves its own file there before the
// answer, as those do who replace a file at once.
func TestCreateNeverHandsOutAnotherFile(t *testing.T) {
	for _, how := range []int{unchecked, guarded, exclusive} {
		t.Run(fmt.Sprint(how), func(t *testing.T) {
			dir := t.TempDir()
			put(t, filepath.Join(dir, "other"), "other's content")
			var once atomic.Bool
			r := newRig(t, func(c *Config) {
				c.sync = func(f *os.File) error {
					if filepath.Base(filepath.Clean(f.Name())) == filepath.Base(dir) && once.CompareAndSwap(false, true) {
						return errors.Join(f.Sync(), os.Rename(filepath.Join(dir, "other"), filepath.Join(dir, "f")))
					}
					return f.Sync()
				}
			}, dir)
			root := r.root()
			arguments := append(args(root, "f", how), sized(0)...)
			if how == exclusive {
				arguments = args(root, "f", how, [8]byte{1, 2, 3})
			}
			s, d := r.raw(procCreate, arguments)
			if s == statusOK && d.flag() {
				_, _ = r.written(d.handle(), fileSync)
			}
			if !once.Load() {
				t.Fatal("nothing was moved there")
			}
			if got, _ := os.ReadFile(filepath.Join(dir, "f")); string(got) != "other's content" {
				t.Errorf("who makes a file writes into another one, which has %q now", got)
			}
		})
	}
}

// TestWhoTakesNoReplyIsNotReadFrom: what waits for him is bounded.
func TestWhoTakesNoReplyIsNotReadFrom(t *testing.T) {
	r := newRig(t, nil, t.TempDir())
	client, server := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.server.serve(ctx, server, netip.MustParseAddrPort("127.0.0.1:7"))
	}()
	defer func() { cancel(); <-done }()
	call := []uint32{1<<31 | 40, 7, 0, 2, programNFS, 3, 0, 0, 0, 0, 0}
	var record []byte
	for _, v := range call {
		record = binary.BigEndian.AppendUint32(record, v)
	}
	const most = 2000
	for n := range most {
		if err := client.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Write(record); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Log("requests taken:", n)
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Errorf("%d requests are read of one who takes no reply", most)
}

// TestOneSearchFindsAllThatIsGone: each search reads all of a tree, and others wait for it.
func TestOneSearchFindsAllThatIsGone(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, nil, dir)
	root := r.root()
	var gone [][]byte
	for _, name := range []string{"a", "b"} {
		put(t, filepath.Join(dir, name), name)
		gone = append(gone, r.lookup(root, name))
		r.expect(statusOK, procRemove, root, name)
	}
	r.expect(statusStale, procGetAttr, gone[0])
	put(t, filepath.Join(dir, "unseen"), "")
	r.expect(statusStale, procGetAttr, gone[1])
	if n := len(r.server.byFSID(testFSID).links); n != 0 {
		t.Errorf("the second one was searched, too: %d", n)
	}
	// What is seen is found nevertheless.
	r.expect(statusOK, procGetAttr, r.lookup(root, "unseen"))
}

// TestTroubleIsNotStale: a client gives up what it has for a stale handle.
func TestTroubleIsNotStale(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "d", "f"), "content")
	r := newRig(t, nil, dir)
	handle := r.lookup(r.lookup(r.root(), "d"), "f")
	_, n, err := r.server.seal.open(handle)
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []bool{true, false} {
		tree := r.server.byFSID(testFSID)
		if !known {
			clear(tree.links)
		}
		p, err := tree.enter()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.dir.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.find(n); err == nil || errors.Is(err, statusStale) {
			t.Errorf("known %v: %v", known, err)
		}
		r.expect(statusOK, procGetAttr, handle)
	}
}

// scarceListener has no room at first.
type scarceListener struct {
	net.Listener
	left atomic.Int32
}

func (l *scarceListener) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

// TestServesOnWhenFilesWereScarce: its end would be the agent's.
func TestServesOnWhenFilesWereScarce(t *testing.T) {
	r := newRig(t, nil, t.TempDir())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	scarce := &scarceListener{Listener: ln}
	scarce.left.Store(2)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.server.Serve(ctx, scarce) }()
	r.addr = ln.Addr().String()
	r.dial()
	r.root()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestTheDirectoryBelowIsNotServed: somebody has unmounted what was exported, and the agent
// has not noticed yet. What a client wrote there would be hidden by the next mount.
func TestTheDirectoryBelowIsNotServed(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, nil, dir)
	root := r.root()
	if err := r.server.Export(Export{Path: dir, FSID: testFSID, Mount: true, Access: anybody}); err != nil {
		t.Fatal(err)
	}
	r.expect(statusJukebox, procGetAttr, root)
	if _, d := r.send(programMount, 3, 1, args(dir)); status(d.u32()) != statusJukebox {
		t.Error("the directory below is mounted by clients")
	}
	proc := newTree(Export{Path: "/proc", Mount: true})
	if p, err := proc.enter(); err != nil {
		t.Error(err)
	} else if err := p.dir.Close(); err != nil {
		t.Error(err)
	}
}
