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
type guard struct {
	from  io.Reader
	order binary.ByteOrder
	to    uint64 // GUID that every record names

	head  []byte // of the record that is being read, what is left of it and those before
	body  int64  // bytes of its payload that are left
	ended bool
	freed [2]uint64 // objects that the record before frees: first, and first that stays
}

func newGuard(head []byte, from io.Reader) *guard {
	g := &guard{from: from, order: binary.LittleEndian}
	if g.order.Uint64(head[8:]) != streamMagic {
		g.order = binary.BigEndian
	}
	g.to = g.order.Uint64(head[40:])
	return g
}

func (g *guard) Read(p []byte) (int, error) {
	if len(g.head) == 0 && g.body == 0 {
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	if len(g.head) > 0 {
		n := copy(p, g.head)
		g.head = g.head[n:]
		return n, nil
	}
	n, err := g.from.Read(p[:min(int64(len(p)), g.body)])
	g.body -= int64(n)
	return n, err
}

// next reads and judges the head of a record. One that frees objects is let through with
// its successor only: when that one needs an object that would be freed, a bit of the
// range has flipped.
func (g *guard) next() error {
	if g.ended {
		return io.EOF
	}
	g.freed = [2]uint64{}
	var held []byte
	for {
		if err := g.one(); err != nil {
			return err
		}
		held = append(held, g.head...)
		if g.freed[1] == 0 || g.ended {
			g.head = held
			return nil
		}
	}
}

// one reads and judges one head.
func (g *guard) one() error {
	before := g.freed
	g.freed = [2]uint64{}
	head := make([]byte, StreamHeadSize)
	if _, err := io.ReadFull(g.from, head); err != nil {
		return err // io.EOF between records: zfs says that the stream is too short
	}
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
	g.head, g.body = head, body
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
