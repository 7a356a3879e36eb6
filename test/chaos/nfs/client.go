package nfs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	programNFS   = 100003
	programMount = 100005

	procLookup = 3
	procRead   = 6
	procWrite  = 7
	procCreate = 8
	procMount  = 1

	guarded  = 1
	fileSync = 2
	// maxReply bounds what is believed of a server.
	maxReply = 2 << 20
	// maxRead is how much a file may hold to be read whole.
	maxRead = 1 << 20
)

// Status is a refusal by the server, as RFC 1813 numbers it.
type Status uint32

// Refusals that tests ask for.
const (
	NotFound Status = 2
	Exists   Status = 17
	ReadOnly Status = 30
	Stale    Status = 70
)

func (s Status) Error() string { return fmt.Sprintf("nfs: status %d", uint32(s)) }

// Tree is one exported directory over one connection. It is for one caller at a time,
// and of no more use after an error that is no Status.
type Tree struct {
	conn net.Conn
	in   *bufio.Reader
	xid  uint32
	root []byte
}

// Mount connects to address, which serves both protocols, and finds the exported
// directory. ctx bounds it.
func Mount(ctx context.Context, address, path string) (*Tree, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	t := &Tree{conn: conn, in: bufio.NewReader(conn)}
	reply, err := t.call(ctx, programMount, procMount, new(writer).text(path))
	if err == nil {
		t.root, err = reply.bytes()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s of %s: %w", path, address, err), conn.Close())
	}
	return t, nil
}

// Close ends the connection.
func (t *Tree) Close() error { return t.conn.Close() }

// Write makes a new file with these bytes, at most 64 KiB.
func (t *Tree) Write(ctx context.Context, name string, data []byte) error {
	file, err := t.create(ctx, name)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	args := new(writer).bytes(file).u64(0).u32(uint32(len(data))).u32(fileSync).bytes(data)
	reply, err := t.call(ctx, programNFS, procWrite, args)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	reply.wcc()
	if n, how := reply.u32(), reply.u32(); reply.err == nil && (int(n) != len(data) || how != fileSync) {
		return fmt.Errorf("write %s: %d of %d bytes confirmed as %d", name, n, len(data), how)
	}
	return reply.err
}

func (t *Tree) create(ctx context.Context, name string) ([]byte, error) {
	// The mode, and nothing else, is the client's to say.
	args := new(writer).bytes(t.root).text(name).u32(guarded).u32(1).u32(0o666)
	for range 5 {
		args.u32(0)
	}
	reply, err := t.call(ctx, programNFS, procCreate, args)
	if err != nil {
		return nil, err
	}
	if reply.u32() == 0 {
		return t.lookup(ctx, name)
	}
	return reply.bytes()
}

func (t *Tree) lookup(ctx context.Context, name string) ([]byte, error) {
	reply, err := t.call(ctx, programNFS, procLookup, new(writer).bytes(t.root).text(name))
	if err != nil {
		return nil, err
	}
	return reply.bytes()
}

// Read is the content of a file of at most a MiB.
func (t *Tree) Read(ctx context.Context, name string) ([]byte, error) {
	file, err := t.lookup(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	reply, err := t.call(ctx, programNFS, procRead, new(writer).bytes(file).u64(0).u32(maxRead))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	reply.attributes()
	_, end := reply.u32(), reply.u32()
	data, err := reply.bytes()
	if err == nil && end == 0 {
		err = fmt.Errorf("read %s: it goes on after %d bytes", name, len(data))
	}
	return data, err
}

// call returns the results after a status of zero; another status is the error.
func (t *Tree) call(ctx context.Context, program, procedure uint32, args *writer) (*reader, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Minute)
	}
	if err := t.conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	t.xid++
	var w writer
	w.u32(t.xid).u32(0).u32(2).u32(program).u32(3).u32(procedure)
	w.u32(1).bytes(new(writer).u32(0).text("test").u32(0).u32(0).u32(0).b) // AUTH_SYS, root
	w.u32(0).u32(0)
	body := append(w.b, args.b...)
	record := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))|1<<31), body...)
	if _, err := t.conn.Write(record); err != nil {
		return nil, err
	}
	reply, err := t.receive()
	if err != nil {
		return nil, err
	}
	return reply.accept(t.xid)
}

// receive reads one reply, of any number of fragments.
func (t *Tree) receive() (*reader, error) {
	var all []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(t.in, head[:]); err != nil {
			return nil, err
		}
		mark := binary.BigEndian.Uint32(head[:])
		length := int(mark &^ (1 << 31))
		if len(all)+length > maxReply {
			return nil, errors.New("nfs: the reply is too long")
		}
		fragment := make([]byte, length)
		if _, err := io.ReadFull(t.in, fragment); err != nil {
			return nil, err
		}
		if all = append(all, fragment...); mark>>31 == 1 {
			return &reader{b: all}, nil
		}
	}
}
