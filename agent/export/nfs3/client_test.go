package nfs3

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Numbers of the procedures that tests call.
const (
	procGetAttr = 1
	procSetAttr = 2
	procLookup  = 3
	procAccess  = 4
	procLink    = 5
	procRead    = 6
	procWrite   = 7
	procCreate  = 8
	procMkdir   = 9
	procSymlink = 10
	procMknod   = 11
	procRemove  = 12
	procRmdir   = 13
	procRename  = 14
	procHard    = 15
	procReadDir = 16
	procPlus    = 17
	procFsStat  = 18
	procCommit  = 21
)

// rig is a server with one tree, and a client on one connection.
type rig struct {
	t      *testing.T
	server *Server
	dir    string
	addr   string
	conn   net.Conn
	who    who
	xid    uint32
}

var testFSID = FSID{1, 2, 3, 4, 15: 9}

func anybody(netip.Addr) (readOnly, ok bool) { return false, true }

func newRig(t *testing.T, change func(*Config), dir string) *rig {
	t.Helper()
	config := Config{Key: bytes.Repeat([]byte{7}, 32), AnyPort: true}
	if change != nil {
		change(&config)
	}
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Export(Export{Path: dir, FSID: testFSID, Squash: SquashNone, Access: anybody}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, server: s, dir: dir, addr: ln.Addr().String()}
	r.dial()
	return r
}

func (r *rig) dial() {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	r.conn = conn
	r.t.Cleanup(func() { _ = conn.Close() })
}

// args builds arguments.
func args(parts ...any) []byte {
	var e encoder
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			e.bytes(p)
		case string:
			e.text(p)
		case int:
			e.u32(uint32(p))
		case uint64:
			e.u64(p)
		case [8]byte:
			e.b = append(e.b, p[:]...)
		default:
			panic(p)
		}
	}
	return e.b
}

// sattr is sattr3 with a mode and nothing else.
func sattr(mode int) []byte {
	var e encoder
	for _, v := range []uint32{1, uint32(mode), 0, 0, 0, 0, 0} {
		e.u32(v)
	}
	return e.b
}

func noAttributes() []byte { return make([]byte, 6*4) }

// send writes one call, in two fragments, and reads the reply: the accepted status, then
// the results.
func (r *rig) send(program, version, proc uint32, arguments []byte) (uint32, *decoder) {
	r.t.Helper()
	r.xid++
	var e encoder
	for _, v := range []uint32{r.xid, 0, 2, program, version, proc, 1} {
		e.u32(v)
	}
	var cred encoder
	cred.u32(0)
	cred.text("client")
	cred.u32(r.who.uid)
	cred.u32(r.who.gid)
	cred.u32(uint32(len(r.who.gids)))
	for _, g := range r.who.gids {
		cred.u32(g)
	}
	e.bytes(cred.b)
	e.u32(0)
	e.u32(0)
	body := append(e.b, arguments...)
	record := binary.BigEndian.AppendUint32(nil, 24)
	record = append(record, body[:24]...)
	record = binary.BigEndian.AppendUint32(record, uint32(len(body)-24)|1<<31)
	if _, err := r.conn.Write(append(record, body[24:]...)); err != nil {
		r.t.Fatal(err)
	}
	var head [4]byte
	if _, err := io.ReadFull(r.conn, head[:]); err != nil {
		r.t.Fatal(err)
	}
	reply := make([]byte, binary.BigEndian.Uint32(head[:])&^(1<<31))
	if _, err := io.ReadFull(r.conn, reply); err != nil {
		r.t.Fatal(err)
	}
	d := &decoder{r: bytes.NewReader(reply)}
	if xid := d.u32(); xid != r.xid {
		r.t.Fatalf("reply to %d, want %d", xid, r.xid)
	}
	_, stat := d.u32(), d.u32()
	if stat != 0 {
		return 1000 + d.u32(), d // denied
	}
	_, _ = d.u32(), d.bytes(400)
	return d.u32(), d
}

// call is one NFS request; what follows the status is in the decoder.
func (r *rig) call(proc uint32, parts ...any) (status, *decoder) {
	r.t.Helper()
	return r.raw(proc, args(parts...))
}

func (r *rig) raw(proc uint32, arguments []byte) (status, *decoder) {
	r.t.Helper()
	accepted, d := r.send(programNFS, 3, proc, arguments)
	if accepted != 0 {
		r.t.Fatalf("procedure %d is answered with %d", proc, accepted)
	}
	return status(d.u32()), d
}

func (r *rig) root() []byte {
	r.t.Helper()
	accepted, d := r.send(programMount, 3, 1, args(r.dir))
	if s := d.u32(); accepted != 0 || s != 0 {
		r.t.Fatalf("mount: %d, %d", accepted, s)
	}
	return d.handle()
}

func (r *rig) lookup(dir []byte, name string) []byte {
	r.t.Helper()
	s, d := r.call(procLookup, dir, name)
	if s != statusOK {
		r.t.Fatalf("lookup of %q: %d", name, s)
	}
	return d.handle()
}

func (r *rig) read(handle []byte) (string, status) {
	r.t.Helper()
	s, d := r.call(procRead, handle, uint64(0), 1000)
	if s != statusOK {
		return "", s
	}
	r.skipAttributes(d)
	_, _ = d.u32(), d.flag()
	return string(d.bytes(1000)), s
}

func (r *rig) skipAttributes(d *decoder) {
	if d.flag() {
		d.read(make([]byte, 84))
	}
}

// expect checks the status of one request.
func (r *rig) expect(want status, proc uint32, parts ...any) {
	r.t.Helper()
	if s, _ := r.call(proc, parts...); s != want {
		r.t.Errorf("procedure %d: status %d, want %d", proc, s, want)
	}
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
