package nfs3

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
)

// Bounds of what a request may hold.
const (
	maxHandle = 64
	maxName   = 255
	maxPath   = 4096
	// maxData bounds one READ or WRITE, and the reply to a listing.
	maxData = 1 << 20
	// maxFile is the size of the largest file: no snapshot of the embedded storage, which this
	// server is for, can hold a larger one.
	maxFile = 1 << 44
)

var errArguments = errors.New("arguments are not understood")

// decoder reads XDR (RFC 4506). After the first error everything is zero.
type decoder struct {
	r   io.Reader
	err error
}

func (d *decoder) read(p []byte) {
	if d.err == nil {
		_, d.err = io.ReadFull(d.r, p)
	}
	if d.err != nil {
		clear(p)
	}
}

func (d *decoder) u32() uint32 {
	var b [4]byte
	d.read(b[:])
	return binary.BigEndian.Uint32(b[:])
}

func (d *decoder) u64() uint64 {
	var b [8]byte
	d.read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func (d *decoder) flag() bool { return d.u32() != 0 }

// bytes reads a length and as many bytes, at most limit.
func (d *decoder) bytes(limit uint32) []byte {
	n := d.u32()
	if n > limit {
		d.err = errArguments
	}
	if d.err != nil {
		return nil
	}
	b := make([]byte, (n+3)&^3)
	d.read(b)
	return b[:n]
}

func (d *decoder) handle() []byte { return d.bytes(maxHandle) }

// name reads the name of a directory's entry. Longer ones are told as such.
func (d *decoder) name() string { return string(d.bytes(maxPath)) }

// encoder writes XDR.
type encoder struct{ b []byte }

func (e *encoder) u32(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }

func (e *encoder) u64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }

func (e *encoder) flag(v bool) {
	if v {
		e.u32(1)
		return
	}
	e.u32(0)
}

func (e *encoder) bytes(v []byte) {
	e.u32(uint32(len(v)))
	e.b = append(e.b, v...)
	for range (4 - len(v)%4) % 4 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) text(v string) { e.bytes([]byte(v)) }

// padded is how many bytes a counted field of n bytes takes.
func padded(n int) int { return 4 + (n+3)&^3 }

// instant is a time as NFS has it: unsigned seconds, so that what lies outside is
// moved to the nearest that fits.
type instant struct{ sec, nsec uint32 }

func instantOf(sec int64, nsec uint32) instant {
	return instant{uint32(min(max(sec, 0), math.MaxUint32)), nsec}
}

func (e *encoder) time(t instant) {
	e.u32(t.sec)
	e.u32(t.nsec)
}

func (d *decoder) time() instant { return instant{d.u32(), d.u32()} }
