package replicate

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"tarn/agent/stream"
)

// space is all that was reached, in the order of its distance from the start.
type space struct {
	m      *machine
	index  map[world]int32
	worlds []world
	parent []int32
	depth  int
	// cut: the limit ended the search before everything was seen.
	cut bool
}

// violation is a world in which a law is broken.
type violation struct {
	at  int32
	err error
}

func newMachine(o options, r *rules) *machine {
	m := &machine{
		opt: o, rules: r, ctl: newControl(r), works: map[workKey]*work{}, adopted: map[adoptKey]memory{}, helds: map[heldKey]bool{}, places: map[placeKey]outcome{},
		board: stream.NewBoard(), wait: uint8(r.leaseWait),
	}
	var err error
	m.cadence, err = NewCadence(CadenceConfig{Engine: &box{}, Root: modelPool, Board: m.board, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	return m
}

// explore walks breadth first through everything that can happen, until a law breaks:
// the way there is then as short as any.
func explore(m *machine) (*space, *violation) {
	s := &space{m: m, index: map[world]int32{}}
	s.add(m.begin(), -1)
	for at, level := int32(0), int32(1); int(at) < len(s.worlds); at++ {
		if at == level {
			s.depth++
			level = int32(len(s.worlds))
		}
		if m.opt.limit > 0 && len(s.worlds) > m.opt.limit {
			s.cut = true
			return s, nil
		}
		if v := s.expand(at); v != nil {
			return s, v
		}
	}
	return s, nil
}

func (s *space) add(w world, parent int32) (int32, bool) {
	if at, known := s.index[w]; known {
		return at, false
	}
	at := int32(len(s.worlds))
	s.index[w] = at
	s.worlds = append(s.worlds, w)
	s.parent = append(s.parent, parent)
	return at, true
}

func (s *space) expand(at int32) (found *violation) {
	from := s.worlds[at]
	s.m.next(from, func(to world, d deed) {
		if found != nil {
			return
		}
		if err := s.m.lawfulStep(from, to, d); err != nil {
			found = &violation{at: s.force(to, at), err: err}
			return
		}
		n, news := s.add(to, at)
		if !news {
			return
		}
		if err := s.m.lawful(to); err != nil {
			found = &violation{at: n, err: err}
		}
	})
	return found
}

// force notes a world that a forbidden step leads to, though it may be known.
func (s *space) force(w world, parent int32) int32 {
	s.worlds = append(s.worlds, w)
	s.parent = append(s.parent, parent)
	return int32(len(s.worlds) - 1)
}

// trace tells how a world is reached, one deed a line.
func (s *space) trace(at int32) string {
	var way []int32
	for n := at; n >= 0; n = s.parent[n] {
		way = append(way, n)
	}
	slices.Reverse(way)
	var b strings.Builder
	for i := 1; i < len(way); i++ {
		from, to, text := s.worlds[way[i-1]], s.worlds[way[i]], ""
		s.m.next(from, func(w world, d deed) {
			if w == to && text == "" {
				text = s.m.tell(from, d)
			}
		})
		fmt.Fprintf(&b, "  %2d. %s\n", i, text)
	}
	return b.String()
}

// picture is one world in words.
func (m *machine) picture(w world) string {
	var b strings.Builder
	f := m.state(w).fencing
	fmt.Fprintf(&b, "log: epoch %d, owner %s, %s %s proof %s", f.GetEpoch(), f.GetOwnerReplicaId(), f.GetPhase(), f.GetOpId(), f.GetProof())
	for i := range hostNames {
		a := m.agents.get(w.agents[i])
		d := a.disk.main
		fmt.Fprintf(&b, "; host %s: up %v, %s epoch %d, mounted %v, exported %d, readonly %v, snapshots %s dirty %v, lease %+v", hostNames[i],
			a.up, roleNames[d.role], d.epoch, d.mounted, a.disk.exported, d.readOnly, set(d.snaps), d.dirty, a.right)
	}
	return b.String()
}
