package stream

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"tarn/zfs"
)

// Head is the newest snapshot of one replica that others follow.
type Head struct {
	Share   string
	Replica string
	Epoch   uint64
	GUID    zfs.GUID
	Created time.Time // by this host's clock; for display
	// AsOf is when the live data were last known equal to the snapshot; it needs
	// its monotonic reading. Zero: never.
	AsOf time.Time
	// Frozen: nothing can write, so the live data equal the snapshot until further notice.
	Frozen bool
	// Dirty is the bytes written since; -1 unknown.
	Dirty int64
	// Froze is the bytes that the snapshot took in since the one before it, whose GUID
	// is Previous; -1 unknown.
	Froze    int64
	Previous zfs.GUID
	// Peers are the ids of the hosts that follow it.
	Peers []string
}

// Board is what the receivers' long polls wait on: the heads of all replicas of
// this host that others follow. Safe for concurrent use.
type Board struct {
	boot uint64

	mu         sync.Mutex
	generation uint64
	entries    map[string]*posted // by replica
	dropped    map[string]uint64  // by peer: generation of the last loss
	changed    chan struct{}
}

type posted struct {
	head       Head
	generation uint64
}

// NewBoard returns an empty board.
func NewBoard() *Board {
	return &Board{
		boot: rand.Uint64() | 1, entries: map[string]*posted{}, dropped: map[string]uint64{},
		changed: make(chan struct{}),
	}
}

// Publish posts heads. Waiting polls wake only when a snapshot, an epoch or the
// peers changed: time and dirty bytes travel with the next answer.
func (b *Board) Publish(heads ...Head) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wake := false
	for _, h := range heads {
		h.Peers = slices.Clone(h.Peers)
		old, ok := b.entries[h.Replica]
		if ok && sameHead(old.head, h) {
			old.head = h
			continue
		}
		if ok {
			b.dropLocked(old.head.Peers, h.Peers)
		}
		b.generation++
		b.entries[h.Replica] = &posted{head: h, generation: b.generation}
		wake = true
	}
	if wake {
		b.wakeLocked()
	}
}

// Withdraw removes a replica: its followers stop counting on it.
func (b *Board) Withdraw(replicaID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, ok := b.entries[replicaID]
	if !ok {
		return
	}
	delete(b.entries, replicaID)
	b.dropLocked(old.head.Peers, nil)
	b.generation++
	b.wakeLocked()
}

// dropLocked remembers that peers in before but not in after lost sight of
// something. It comes before the generation is raised: an answer of that
// generation has told it.
func (b *Board) dropLocked(before, after []string) {
	for _, p := range before {
		if !slices.Contains(after, p) {
			b.dropped[p] = b.generation + 1
		}
	}
}

func (b *Board) wakeLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func sameHead(a, b Head) bool {
	return a.GUID == b.GUID && a.Epoch == b.Epoch && a.Frozen == b.Frozen && a.Share == b.Share && slices.Equal(a.Peers, b.Peers)
}

// answer says what peer has to know after since, and which channel closes when
// that may have changed. news is false when there is nothing new.
func (b *Board) answer(peer string, req headsBody, now time.Time) (a headsAnswer, news bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	full := req.Boot != b.boot || req.Since > b.generation || b.dropped[peer] > req.Since
	a = headsAnswer{Boot: b.boot, Generation: b.generation, Full: full, CommonAge: -1}
	var quiet []wireHead
	for _, p := range b.entries {
		if !slices.Contains(p.head.Peers, peer) {
			continue
		}
		w := p.head.wire(now)
		if full || p.generation > req.Since {
			a.Heads = append(a.Heads, w)
			news = true
		} else {
			quiet = append(quiet, w)
		}
	}
	a.shorten(quiet)
	return a, news || full, b.changed
}

// age is how long ago replica's live data were known equal to guid, -1 unknown.
func (b *Board) age(replica string, guid zfs.GUID, now time.Time) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.entries[replica]
	if !ok || p.head.GUID != guid {
		return -1
	}
	return p.head.wire(now).Age
}

// froze is about how many bytes the step from base to to brings, -1 unknown.
func (b *Board) froze(replica string, base, to zfs.GUID) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.entries[replica]
	if !ok || p.head.GUID != to || p.head.Previous != base || base == 0 {
		return -1
	}
	return p.head.Froze
}

func (h Head) wire(now time.Time) wireHead {
	w := wireHead{Share: h.Share, Replica: h.Replica, Epoch: h.Epoch, GUID: h.GUID, Created: h.Created, Age: -1, Dirty: h.Dirty}
	switch {
	case h.Frozen:
		w.Age, w.Dirty = 0, 0
	case !h.AsOf.IsZero():
		w.Age = int64(max(0, now.Sub(h.AsOf)))
	}
	return w
}

// ageSpread is how far apart the ages of heads may be that are told as one.
const ageSpread = int64(time.Second)

// shorten leaves out quiet heads that are clean and about equally old. The
// common age is the oldest of them: a lag is never told too small.
func (a *headsAnswer) shorten(quiet []wireHead) {
	youngest := int64(-1)
	for _, w := range quiet {
		if w.Age >= 0 && w.Dirty == 0 && (youngest < 0 || w.Age < youngest) {
			youngest = w.Age
		}
	}
	for _, w := range quiet {
		if w.Dirty == 0 && w.Age >= 0 && w.Age <= youngest+ageSpread {
			a.CommonAge = max(a.CommonAge, w.Age)
		} else {
			a.Heads = append(a.Heads, w)
		}
	}
}
