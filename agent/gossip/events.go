package gossip

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
)

// State is what the ring believes of a member.
type State uint8

// The states of a member.
const (
	StateAlive  State = 1 + iota
	StateFailed       // unreachable, as far as gossip can tell
	StateLeft         // said so itself
)

// String returns the state's name for tables and labels.
func (s State) String() string {
	switch s {
	case StateAlive:
		return "alive"
	case StateFailed:
		return "failed"
	case StateLeft:
		return "left"
	}
	return "unknown"
}

// Member is a copy of what the ring knows of one host.
type Member struct {
	Name  string // host id
	Addr  string // gossip address, IP:port
	State State
	Meta  Meta
}

// Event says that a member changed, or that two hosts claim one name.
type Event struct {
	Member Member // newest state
	// ConflictAddr is not empty if another host at this address claims the
	// member's name: an alarm, both are to be quarantined (M3).
	ConflictAddr string
	// Refused is why the member is kept out. It tells one refusal of several: each name
	// and address once, until something else is heard of the name.
	Refused error
}

// table is the ring's own member list and its mailbox. memberlist calls its
// methods with locks held: they copy, and return at once.
type table struct {
	self    string
	accept  func(Member) error
	refused func(Member, error)
	wake    chan struct{} // holds one: pending is not empty

	mu        sync.Mutex
	members   map[string]Member
	pending   map[string]Event
	told      map[string]string // addresses of refused members, by name
	conflicts uint64
	rejected  uint64
}

// maxTold bounds what is remembered of strangers, who choose their names.
const maxTold = 1024

func newTable(cfg Config) *table {
	return &table{
		self:    cfg.Meta.HostID,
		accept:  cfg.Accept,
		refused: cfg.Refused,
		told:    map[string]string{},
		wake:    make(chan struct{}, 1),
		members: map[string]Member{},
		pending: map[string]Event{},
	}
}

func memberOf(n *memberlist.Node, state State) (Member, error) {
	meta, err := decodeMeta(n.Meta)
	return Member{Name: n.Name, Addr: n.Address(), State: state, Meta: meta}, err
}

// NotifyJoin implements memberlist.EventDelegate.
func (t *table) NotifyJoin(n *memberlist.Node) { t.update(n, StateAlive) }

// NotifyUpdate implements memberlist.EventDelegate.
func (t *table) NotifyUpdate(n *memberlist.Node) { t.update(n, StateAlive) }

// NotifyLeave implements memberlist.EventDelegate.
func (t *table) NotifyLeave(n *memberlist.Node) {
	t.update(n, StateFailed)
}

func (t *table) update(n *memberlist.Node, state State) {
	m, err := memberOf(n, state)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		// NotifyAlive let in nobody like this; keep what was known before.
		m.Meta = t.members[m.Name].Meta
	}
	if state == StateFailed && m.Meta.Leaving {
		m.State = StateLeft
	}
	t.members[m.Name] = m
	delete(t.told, m.Name)
	t.post(Event{Member: m})
}

// post replaces what is pending for the member, but never loses a conflict or a refusal.
func (t *table) post(e Event) {
	if e.ConflictAddr == "" {
		e.ConflictAddr = t.pending[e.Member.Name].ConflictAddr
	}
	if e.Refused == nil {
		e.Refused = t.pending[e.Member.Name].Refused
	}
	t.pending[e.Member.Name] = e
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (t *table) NotifyConflict(existing, other *memberlist.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conflicts++
	m, ok := t.members[existing.Name]
	if !ok {
		m = Member{Name: existing.Name, Addr: existing.Address(), State: StateAlive}
	}
	t.post(Event{Member: m, ConflictAddr: other.Address()})
}

// NotifyAlive implements memberlist.AliveDelegate: an error keeps the member out.
func (t *table) NotifyAlive(n *memberlist.Node) error {
	m, err := t.admit(n)
	if err == nil {
		return nil
	}
	if t.refused != nil {
		t.refused(m, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rejected++
	if t.told[m.Name] != m.Addr && len(t.told) < maxTold {
		t.told[m.Name] = m.Addr
		t.postRefusal(m, err)
	}
	return err
}

// postRefusal never takes the place of news of a member that is in the ring.
func (t *table) postRefusal(m Member, err error) {
	e, waits := t.pending[m.Name]
	if !waits {
		e.Member = m
		if old, in := t.members[m.Name]; in {
			e.Member = old
		}
	}
	e.Refused = err
	t.post(e)
}

func (t *table) admit(n *memberlist.Node) (Member, error) {
	m, err := memberOf(n, StateAlive)
	if err != nil {
		return m, err
	}
	if m.Name != m.Meta.HostID {
		return m, fmt.Errorf("%w: member %q calls itself host %q", ErrMeta, m.Name, m.Meta.HostID)
	}
	// Of two that have this host's own name, memberlist itself finds out.
	if t.accept != nil && m.Name != t.self {
		return m, t.accept(m)
	}
	return m, nil
}

// take empties the mailbox, by name.
func (t *table) take() []Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	events := slices.SortedFunc(maps.Values(t.pending), func(a, b Event) int {
		return cmp.Compare(a.Member.Name, b.Member.Name)
	})
	clear(t.pending)
	return events
}

// list returns all members, by name, but for those that would not be let in any more:
// memberlist throws nobody out.
func (t *table) list() []Member {
	t.mu.Lock()
	all := slices.SortedFunc(maps.Values(t.members), func(a, b Member) int {
		return cmp.Compare(a.Name, b.Name)
	})
	t.mu.Unlock()
	return slices.DeleteFunc(all, func(m Member) bool {
		return t.accept != nil && m.Name != t.self && t.accept(m) != nil
	})
}
