package zfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Records of a stream of pool version 23, after the head.
const (
	recordObject      = 1
	recordFreeObjects = 2
	recordWrite       = 3
	recordFree        = 4
	recordEnd         = 5

	oldMaxBlock = 128 << 10
	oldMaxBonus = 320
	maxObject   = 1 << 48
	maxOffset   = 1 << 56 // 64 PiB: files of zfs-fuse are smaller, holes and all
)

var errRecord = errors.New("damaged record")

// guard reads a stream for zfs-fuse and stops at the first record that makes no sense.
// zfs-fuse checks the sum of a stream when all of it has been written, and until then
// believes every offset and length: one flipped bit ends the daemon, and with it every
// pool of the host. Newer versions check each record themselves.
//
// It looks at heads of records inside the buffer that carries the stream, so that what
// passes is neither copied again nor cut into pieces. (To have the kernel move the payloads
// past it made nothing quicker: the daemon and its two tools fill the processors.)
type guard struct {
	from  io.Reader
	order binary.ByteOrder
	to    uint64 // GUID that every record names

	buf    []byte // read from the stream
	passed int    // bytes of buf that may go to zfs
	seen   int    // bytes of buf that were looked at: from passed on they wait for a successor
	body   int64  // bytes of the payload of a record that are to come after buf
	ended  bool
	err    error     // why nothing comes after buf
	freed  [2]uint64 // objects that the record before frees: first, and first that stays
}

const (
	// guardBuffer is what a pipe holds.
	guardBuffer = 1 << 20
	// gather is how much is read before it is written: TLS brings 16 KiB at a time.
	gather = 256 << 10
)

func newGuard(head []byte, from io.Reader) *guard {
	g := &guard{from: from, order: binary.LittleEndian}
	if g.order.Uint64(head[8:]) != streamMagic {
		g.order = binary.BigEndian
	}
	g.to = g.order.Uint64(head[40:])
	return g
}

// Read is WriteTo for readers of a few bytes.
func (g *guard) Read(p []byte) (int, error) {
	for g.passed == 0 {
		if g.err != nil {
			return 0, g.err
		}
		g.err = g.more()
	}
	n := copy(p, g.buf[:g.passed])
	g.drop(n)
	return n, nil
}

// WriteTo moves the whole stream to w, which io.Copy prefers to Read.
func (g *guard) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if g.passed > 0 {
			n, err := w.Write(g.buf[:g.passed])
			total += int64(n)
			if err != nil {
				return total, err
			}
			g.drop(n)
		}
		switch {
		case g.err == nil:
			g.err = g.collect()
		case g.passed > 0: // came together with the error
		case errors.Is(g.err, io.EOF):
			return total, nil
		default:
			return total, g.err
		}
	}
}

// collect reads until a write is worth its system call, or nothing more may pass.
func (g *guard) collect() error {
	for {
		if err := g.more(); err != nil || g.passed >= gather || g.ended {
			return err
		}
	}
}

// drop forgets the first n bytes, which are with zfs.
func (g *guard) drop(n int) {
	left := copy(g.buf, g.buf[n:])
	g.buf, g.passed, g.seen = g.buf[:left], g.passed-n, g.seen-n
}

// more reads what the stream has now and judges it. It fails when nothing more may
// pass: io.EOF after the last record, and between records, where zfs says itself that
// the stream is too short.
func (g *guard) more() error {
	if g.ended {
		return io.EOF
	}
	if g.buf == nil {
		g.buf = make([]byte, 0, guardBuffer)
	}
	n, err := g.from.Read(g.buf[len(g.buf):cap(g.buf)])
	g.buf = g.buf[:len(g.buf)+n]
	if jerr := g.judgeAll(); jerr != nil {
		return jerr
	}
	if errors.Is(err, io.EOF) && (len(g.buf) > g.seen || g.body > 0) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// judgeAll looks at every head that is whole in the buffer. A record that frees objects
// passes with its successor only: when that one needs an object that would be freed, a
// bit of the range has flipped.
func (g *guard) judgeAll() error {
	for !g.ended {
		if skip := min(g.body, int64(len(g.buf)-g.seen)); skip > 0 {
			g.seen, g.body = g.seen+int(skip), g.body-skip
			g.passed = g.seen
		}
		if g.body > 0 || len(g.buf)-g.seen < StreamHeadSize {
			return nil
		}
		if err := g.one(g.buf[g.seen : g.seen+StreamHeadSize]); err != nil {
			return err
		}
		g.passed = g.seen // the successor of what waited is here
		g.seen += StreamHeadSize
		if g.freed[1] == 0 || g.ended {
			g.passed = g.seen
		}
	}
	g.buf = g.buf[:g.seen] // what follows the end is not the stream's
	return nil
}

// one judges one head.
func (g *guard) one(head []byte) error {
	before := g.freed
	g.freed = [2]uint64{}
	body, guid, err := g.judge(head)
	if err != nil {
		return err
	}
	if object := g.order.Uint64(head[8:]); !g.ended && object >= before[0] && object < before[1] {
		return fmt.Errorf("%w: object %d is freed and goes on", errRecord, object)
	}
	if guid != g.to || g.order.Uint32(head[4:]) != 0 {
		return fmt.Errorf("%w: it belongs to snapshot %d, the stream to %d", errRecord, guid, g.to)
	}
	g.body = body
	return nil
}

// judge gives the length of a record's payload and the snapshot that it names.
func (g *guard) judge(head []byte) (body int64, guid uint64, err error) {
	u64 := func(at int) uint64 { return g.order.Uint64(head[at:]) }
	switch kind := g.order.Uint32(head); kind {
	case recordObject:
		block, bonus := g.order.Uint32(head[24:]), g.order.Uint32(head[28:])
		if !oldObject(u64(8)) || !oldBlock(uint64(block)) || bonus > oldMaxBonus {
			err = fmt.Errorf("%w: object %d of blocks of %d bytes and a bonus of %d", errRecord, u64(8), block, bonus)
		}
		return int64(bonus+7) &^ 7, u64(40), err
	case recordFreeObjects:
		g.freed = [2]uint64{u64(8), u64(8) + u64(16)}
		if u64(8) > maxObject || g.freed[1] <= g.freed[0] {
			err = fmt.Errorf("%w: %d objects from %d on are free", errRecord, u64(16), u64(8))
		}
		return 0, u64(24), err
	case recordWrite:
		offset, length := u64(24), u64(32)
		if !oldObject(u64(8)) || !oldBlock(length) || offset%max(length, 1) != 0 || offset > maxOffset {
			err = fmt.Errorf("%w: write of %d bytes at %d of object %d", errRecord, length, offset, u64(8))
		}
		return int64(min(length, oldMaxBlock)), u64(40), err
	case recordFree:
		if !oldObject(u64(8)) {
			err = fmt.Errorf("%w: free in object %d", errRecord, u64(8))
		}
		return 0, u64(32), err
	case recordEnd:
		g.ended = true
		return 0, u64(40), nil
	default:
		return 0, 0, fmt.Errorf("%w: of kind %d", errRecord, kind)
	}
}

func oldObject(n uint64) bool { return n > 0 && n <= maxObject }

// oldBlock tells whether version 23 has blocks of a size.
func oldBlock(n uint64) bool { return n >= 512 && n <= oldMaxBlock && n%512 == 0 }
