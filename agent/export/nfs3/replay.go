package nfs3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// replayFor is how long an answer is kept for a client that asks again since it has not got it.
	replayFor = 2 * time.Minute
	// maxReplays bounds the answers that are kept, each of some hundred bytes.
	maxReplays = 16384
)

// onlyOnce are the procedures that do harm when a request that was sent again runs again: it
// would remove a file that was made since, cut one that was written since, or be told that
// there is nothing to rename. A write would put what was there before over what was written since.
var onlyOnce = map[string]bool{
	"SETATTR": true, "WRITE": true, "CREATE": true, "MKDIR": true, "SYMLINK": true, "REMOVE": true, "RMDIR": true, "RENAME": true, "LINK": true,
}

// maxNoted bounds what is noted of the arguments of a request: of a write its beginning.
const maxNoted = 1024

// beginning passes on as much, and lets the rest go.
type beginning struct {
	to   io.Writer
	left int
}

func (b *beginning) Write(p []byte) (int, error) {
	n := min(b.left, len(p))
	b.left -= n
	_, err := b.to.Write(p[:n])
	return len(p), err
}

// request is what a client sends again unchanged.
type request struct {
	peer      netip.AddrPort
	xid       uint32
	arguments [sha256.Size]byte // with the procedure and who asks
}

// replay is the answer to a request; done is closed when there is one.
type replay struct {
	request
	done   chan struct{}
	answer []byte // nil: there is none, it may run again
	began  time.Time
}

// replays are the latest answers. The zero value has none.
type replays struct {
	mu    sync.Mutex
	known map[request]*replay
	queue []*replay // oldest first
}

// begin answers what was begun for r before, or nil and what finish wants.
func (s *replays) begin(r request, now time.Time) (before, mine *replay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[request]*replay{}
	}
	for len(s.queue) > 0 && (len(s.queue) >= maxReplays || now.Sub(s.queue[0].began) > replayFor) {
		if old := s.queue[0]; s.known[old.request] == old {
			delete(s.known, old.request)
		}
		s.queue = s.queue[1:]
	}
	if before, ok := s.known[r]; ok {
		return before, nil
	}
	mine = &replay{request: r, done: make(chan struct{}), began: now}
	s.known[r] = mine
	s.queue = append(s.queue, mine)
	return nil, mine
}

// finish keeps an answer; nil forgets the request.
func (s *replays) finish(r *replay, answer []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.answer = answer
	if answer == nil && s.known[r.request] == r {
		delete(s.known, r.request)
	}
	close(r.done)
}

// once does the work of a request, unless it was done: then the answer is that of the first
// time. What failed may be tried again.
func (c *call) once(t *tree, work func() error) error {
	if c.request == nil {
		return work()
	}
	for {
		before, mine := t.replays.begin(*c.request, time.Now())
		if mine != nil {
			var answer []byte
			defer func() { t.replays.finish(mine, answer) }()
			err := work()
			if err == nil {
				answer = slices.Clone(c.out.b)
			}
			return err
		}
		select {
		case <-before.done:
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
		if before.answer != nil {
			c.out.b = slices.Clone(before.answer)
			return nil
		}
	}
}

// known prepares once for a procedure that is to run once: what it reads is noted.
func (c *call) known(ctx context.Context, p procedure, run func(c *call) func() error) func() error {
	xid, ok := ctx.Value(xidKey{}).(uint32)
	if !ok || !onlyOnce[p.name] {
		return run(c)
	}
	sum := sha256.New()
	_, _ = fmt.Fprint(sum, p.name, c.who)
	c.in.r = io.TeeReader(c.in.r, &beginning{sum, maxNoted})
	work := run(c)
	c.request = &request{peer: c.from, xid: xid, arguments: [sha256.Size]byte(sum.Sum(nil))}
	return work
}

// numbers follows the bytes of a connection for the numbers of its calls, which the layer
// below keeps to itself.
type numbers struct {
	mu     sync.Mutex
	xids   []uint32
	head   []byte // marker of the fragment
	left   uint32 // of the fragment
	last   bool
	record []byte // its beginning
}

// recordHead is number, kind and version of RPC.
const recordHead = 12

func (n *numbers) pass(p []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(p) > 0 {
		if n.left == 0 {
			take := min(4-len(n.head), len(p))
			n.head, p = append(n.head, p[:take]...), p[take:]
			if len(n.head) < 4 {
				return
			}
			marker := binary.BigEndian.Uint32(n.head)
			n.left, n.last, n.head = marker&^(1<<31), marker>>31 != 0, n.head[:0]
		} else {
			take := int(min(uint64(n.left), uint64(len(p))))
			if want := min(recordHead-len(n.record), take); want > 0 {
				n.record = append(n.record, p[:want]...)
				if len(n.record) == recordHead && bytes.Equal(n.record[4:], []byte{0, 0, 0, 0, 0, 0, 0, 2}) {
					n.xids = append(n.xids, binary.BigEndian.Uint32(n.record))
				}
			}
			n.left, p = n.left-uint32(take), p[take:]
		}
		if n.left == 0 && n.last {
			n.record, n.last = n.record[:0], false
		}
	}
}

// next is the number of the next call of version 2. Calls are asked for in their order.
func (n *numbers) next() (uint32, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.xids) == 0 {
		return 0, false
	}
	xid := n.xids[0]
	n.xids = n.xids[1:]
	return xid, true
}
