// Package wire frames the records of a stream: type, length, number, payload, and
// the CRC-32C of everything since the first byte of the stream. A cut is
// ErrTruncated; a flipped bit, a lost or repeated record and bytes after the end
// are ErrCorrupt. The content's own hashes are the caller's business.
package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Type of a record.
type Type uint8

// Record types, in the order in which a stream has them.
const (
	Head   Type = 1 + iota // what the stream is
	Chunk                  // bytes of a file
	Object                 // a node of the tree
	End                    // nothing follows
)

// Sizes of a frame beside its payload, in bytes.
const (
	HeaderSize  = 12
	TrailerSize = 4
	Overhead    = HeaderSize + TrailerSize
)

// Magic opens every stream and names the version of the format.
const Magic = "tarndir1"

const (
	maxHead  = 64 << 10
	maxChunk = 128 << 10
	maxEnd   = 4 << 10
)

// Errors of the Reader.
var (
	ErrTruncated = errors.New("stream ends early")
	ErrCorrupt   = errors.New("stream is damaged")
)

// Framer numbers and seals records. The zero value starts a stream.
type Framer struct {
	sum uint32
	seq uint32
}

// castagnoli is computed once by the runtime: MakeTable returns a shared table.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Start gives the first bytes of the stream.
func (f *Framer) Start() []byte {
	f.sum = crc32.Update(f.sum, castagnoli(), []byte(Magic))
	return []byte(Magic)
}

// Seal fills in a frame: buf has HeaderSize free bytes, the payload, and
// TrailerSize free bytes. Frames must be sealed in the order of the stream.
func (f *Framer) Seal(t Type, buf []byte) {
	clear(buf[:HeaderSize])
	buf[0] = byte(t)
	binary.BigEndian.PutUint32(buf[4:], uint32(len(buf)-Overhead))
	binary.BigEndian.PutUint32(buf[8:], f.seq)
	f.seq++
	end := len(buf) - TrailerSize
	f.sum = crc32.Update(f.sum, castagnoli(), buf[:end])
	binary.BigEndian.PutUint32(buf[end:], f.sum)
}

// Reader takes a stream apart.
type Reader struct {
	r         io.Reader
	maxObject int
	sum       uint32
	seq       uint32
}

// NewReader reads from r, which should be buffered. Objects longer than maxObject
// are refused.
func NewReader(r io.Reader, maxObject int) *Reader { return &Reader{r: r, maxObject: maxObject} }

// Start reads the first bytes.
func (r *Reader) Start() error {
	buf := make([]byte, len(Magic))
	if err := r.fill(buf); err != nil {
		return err
	}
	if string(buf) != Magic {
		return fmt.Errorf("%w: not a stream of this engine", ErrCorrupt)
	}
	r.sum = crc32.Update(0, castagnoli(), buf)
	return nil
}

// Next reads one record. alloc gives a buffer of at least the given length for its
// payload. After End it checks that nothing follows.
func (r *Reader) Next(alloc func(int) []byte) (Type, []byte, error) {
	var head [HeaderSize]byte
	if err := r.fill(head[:]); err != nil {
		return 0, nil, err
	}
	t, n, err := r.parse(head)
	if err != nil {
		return 0, nil, err
	}
	payload, err := r.payload(t, n, alloc)
	if err != nil {
		return 0, nil, err
	}
	var trailer [TrailerSize]byte
	if err := r.fill(trailer[:]); err != nil {
		return 0, nil, err
	}
	r.sum = crc32.Update(crc32.Update(r.sum, castagnoli(), head[:]), castagnoli(), payload)
	if binary.BigEndian.Uint32(trailer[:]) != r.sum {
		return 0, nil, fmt.Errorf("%w: checksum of record %d", ErrCorrupt, r.seq)
	}
	r.seq++
	if t == End {
		return t, payload, r.nothingFollows()
	}
	return t, payload, nil
}

func (r *Reader) parse(head [HeaderSize]byte) (Type, int, error) {
	t, n := Type(head[0]), binary.BigEndian.Uint32(head[4:])
	limit := map[Type]int{Head: maxHead, Chunk: maxChunk, Object: r.maxObject, End: maxEnd}[t]
	switch {
	case limit == 0 || head[1]|head[2]|head[3] != 0:
		return 0, 0, fmt.Errorf("%w: record type %d", ErrCorrupt, t)
	case int64(n) > int64(limit):
		return 0, 0, fmt.Errorf("%w: record of %d bytes", ErrCorrupt, n)
	case binary.BigEndian.Uint32(head[8:]) != r.seq:
		return 0, 0, fmt.Errorf("%w: record out of order", ErrCorrupt)
	case (r.seq == 0) != (t == Head):
		return 0, 0, fmt.Errorf("%w: head out of place", ErrCorrupt)
	}
	return t, int(n), nil
}

// payload grows a large buffer as bytes arrive: a damaged length must not
// allocate what never comes.
func (r *Reader) payload(t Type, n int, alloc func(int) []byte) ([]byte, error) {
	if t == Object && n > maxChunk {
		var b bytes.Buffer
		if _, err := io.CopyN(&b, r.r, int64(n)); err != nil {
			return nil, cut(err)
		}
		return b.Bytes(), nil
	}
	payload := alloc(n)[:n]
	return payload, r.fill(payload)
}

func (r *Reader) nothingFollows() error {
	var one [1]byte
	n, err := io.ReadFull(r.r, one[:])
	if n > 0 {
		return fmt.Errorf("%w: bytes after the end", ErrCorrupt)
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", ErrTruncated, err)
	}
	return nil
}

func (r *Reader) fill(buf []byte) error {
	if _, err := io.ReadFull(r.r, buf); err != nil {
		return cut(err)
	}
	return nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return fmt.Errorf("%w: %w", ErrTruncated, err)
}
