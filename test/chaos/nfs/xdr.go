package nfs

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var errShort = errors.New("nfs: the reply ends too early")

// writer builds XDR (RFC 4506).
type writer struct{ b []byte }

func (w *writer) u32(v uint32) *writer { w.b = binary.BigEndian.AppendUint32(w.b, v); return w }

func (w *writer) u64(v uint64) *writer { w.b = binary.BigEndian.AppendUint64(w.b, v); return w }

func (w *writer) bytes(v []byte) *writer {
	w.u32(uint32(len(v)))
	w.b = append(w.b, v...)
	w.b = append(w.b, make([]byte, (4-len(v)%4)%4)...)
	return w
}

func (w *writer) text(v string) *writer { return w.bytes([]byte(v)) }

// reader takes XDR apart. After its first error everything is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.b)) {
		r.err = errShort
	}
	if r.err != nil {
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) bytes() ([]byte, error) {
	n := int(r.u32())
	padded := r.take((n + 3) &^ 3)
	if r.err != nil {
		return nil, r.err
	}
	return padded[:n], nil
}

// attributes skips what a server may say about a file.
func (r *reader) attributes() {
	const fattr3 = 84
	if r.u32() != 0 {
		r.take(fattr3)
	}
}

// wcc skips what a server may say about a file before and after.
func (r *reader) wcc() {
	const before = 24
	if r.u32() != 0 {
		r.take(before)
	}
	r.attributes()
}

// accept reads the head of a reply and the status of its results.
func (r *reader) accept(xid uint32) (*reader, error) {
	got, _, denied := r.u32(), r.u32(), r.u32()
	if r.err == nil && got != xid {
		return nil, fmt.Errorf("nfs: reply to %d, want %d", got, xid)
	}
	if r.err == nil && denied != 0 {
		return nil, errors.New("nfs: the call was denied")
	}
	r.u32() // verifier
	if _, err := r.bytes(); err != nil {
		return nil, err
	}
	if accepted := r.u32(); accepted != 0 {
		return nil, fmt.Errorf("nfs: the call was not accepted: %d", accepted)
	}
	if s := r.u32(); s != 0 {
		return nil, Status(s)
	}
	return r, r.err
}
