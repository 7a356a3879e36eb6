package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
)

// ErrNotRunning means that Run has not started listening or has ended.
var ErrNotRunning = errors.New("gossip is not running")

const (
	alonePause    = time.Second      // between attempts to find anybody
	defaultRejoin = 30 * time.Second // between rounds over Config.Peers
	selfChecks    = 3                // attempts to reach itself over UDP
)

// Ring is this host's part in the gossip. Its methods may be called at any time
// from any goroutine.
type Ring struct {
	cfg   Config
	keys  *memberlist.Keyring
	table *table
	meta  atomic.Pointer[[]byte]
	ready chan struct{}
	again chan struct{} // holds one: join all peers anew
	// addr is this host's; memberlist's own copy is shared and changes. Not under mu, which
	// Leave holds for as long as it waits.
	addr atomic.Pointer[string]

	mu   sync.Mutex // held over calls that must not overlap Shutdown
	list *memberlist.Memberlist
}

// New checks the configuration and returns a Ring that does nothing until Run.
func New(cfg Config) (*Ring, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Rejoin == 0 {
		cfg.Rejoin = defaultRejoin
	}
	keys, err := memberlist.NewKeyring(cfg.OtherKeys, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("gossip config: %w", err)
	}
	r := &Ring{cfg: cfg, keys: keys, table: newTable(cfg), ready: make(chan struct{}), again: make(chan struct{}, 1)}
	return r, r.storeMeta(cfg.Meta)
}

// Run gossips until ctx ends, then returns nil. It may be called once. It does
// not announce that the host leaves: a restart is no departure. See Leave.
// It fails if the address cannot be bound or UDP does not reach it.
func (r *Ring) Run(ctx context.Context) error {
	list, err := r.create()
	if err != nil {
		return err
	}
	defer r.shutdown(list)
	if err := r.selfCheck(list); err != nil {
		return err
	}
	close(r.ready)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.deliver(ctx) })
	g.Go(func() error { return r.rejoin(ctx) })
	return g.Wait()
}

func (r *Ring) create() (*memberlist.Memberlist, error) {
	mc, err := r.cfg.memberlist()
	if err != nil {
		return nil, err
	}
	mc.Keyring = r.keys
	mc.Logger = newLog(r.cfg.Logger)
	if mc.Transport == nil && r.cfg.Admit != nil {
		transport, err := listen(mc, r.cfg.Admit, mc.Logger)
		if err != nil {
			return nil, err
		}
		mc.Transport = transport
	}
	mc.Delegate = metaDelegate{&r.meta}
	mc.Events, mc.Conflict, mc.Alive = r.table, r.table, r.table
	list, err := memberlist.Create(mc)
	if err != nil {
		if mine, ok := mc.Transport.(*limitedTransport); ok {
			err = errors.Join(err, mine.Shutdown())
		}
		return nil, fmt.Errorf("start gossip on %s: %w", r.cfg.Bind, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	addr := list.LocalNode().Address()
	r.list = list
	r.addr.Store(&addr)
	return list, nil
}

func (r *Ring) shutdown(list *memberlist.Memberlist) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = nil // Leave after Shutdown would panic
	if err := list.Shutdown(); err != nil {
		r.cfg.Logger.Warn("gossip did not shut down cleanly", "err", err)
	}
}

// selfCheck refuses a host whose UDP is blocked: TCP alone would make it join
// and fail in turns of half a minute (M2).
func (r *Ring) selfCheck(list *memberlist.Memberlist) error {
	target, err := net.ResolveUDPAddr("udp", r.Addr())
	if err != nil {
		return fmt.Errorf("parse own gossip address: %w", err)
	}
	for range selfChecks {
		if _, err = list.Ping(r.cfg.Meta.HostID, target); err == nil {
			return nil
		}
	}
	return fmt.Errorf("gossip over UDP does not reach %s: %w", target, err)
}

// deliver hands events to Config.Notify, outside memberlist's locks.
func (r *Ring) deliver(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.table.wake:
			events := r.table.take()
			for _, e := range events {
				r.tell(e)
			}
			if r.cfg.Notify != nil && len(events) > 0 {
				r.cfg.Notify(events)
			}
		}
	}
}

// tell logs what somebody should know of.
func (r *Ring) tell(e Event) {
	if e.ConflictAddr != "" {
		r.cfg.Logger.Error("two hosts claim one id", "host", e.Member.Name,
			"addr", e.Member.Addr, "other_addr", e.ConflictAddr)
	}
	if e.Refused != nil {
		r.cfg.Logger.Warn("kept out of the gossip ring", "host", e.Member.Name, "reason", e.Refused)
	}
}

// rejoin keeps joining those that should be in the ring and are not.
func (r *Ring) rejoin(ctx context.Context) error {
	for all := false; ctx.Err() == nil; {
		for _, addr := range r.missing(all) {
			if ctx.Err() != nil {
				return nil
			}
			if err := r.Join([]string{addr}); err != nil {
				r.cfg.Logger.Debug("gossip peer did not answer", "addr", addr, "err", err)
			}
		}
		wait := r.cfg.Rejoin
		if r.alone() {
			wait = min(wait, alonePause)
		}
		all = r.pause(ctx, wait/2+rand.N(wait))
	}
	return nil
}

// Again makes the ring join all its peers anew, soon: they may accept this host by now,
// or it accepts them.
func (r *Ring) Again() {
	select {
	case r.again <- struct{}{}:
	default:
	}
}

// missing returns the peers that are not alive under the address they should have, or all.
func (r *Ring) missing(all bool) []string {
	if r.cfg.Peers == nil {
		return nil
	}
	alive := map[string]bool{r.Addr(): true}
	for _, m := range r.Members() {
		if m.State == StateAlive && !all {
			alive[m.Addr] = true
		}
	}
	var out []string
	for _, addr := range r.cfg.Peers() {
		if !alive[addr] {
			out = append(out, addr)
		}
	}
	return out
}

func (r *Ring) alone() bool {
	for _, m := range r.Members() {
		if m.State == StateAlive && m.Name != r.cfg.Meta.HostID {
			return false
		}
	}
	return true
}

// pause waits, and says if it was cut short by Again.
func (r *Ring) pause(ctx context.Context, d time.Duration) (again bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-r.again:
		return true
	}
	return false
}

func (r *Ring) running() (*memberlist.Memberlist, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		return nil, ErrNotRunning
	}
	return r.list, nil
}

// Ready is closed once the Ring listens.
func (r *Ring) Ready() <-chan struct{} { return r.ready }

// Addr returns the address that others use, IP:port; empty before Ready.
func (r *Ring) Addr() string {
	if addr := r.addr.Load(); addr != nil {
		return *addr
	}
	return ""
}

// Join contacts members at addrs, host:port. One that answers is enough; it
// fails if none does. It blocks for up to 5 s per address and must not be called
// from Config.Accept.
func (r *Ring) Join(addrs []string) error {
	list, err := r.running()
	if err != nil {
		return err
	}
	if _, err := list.Join(addrs); err != nil {
		return fmt.Errorf("join gossip ring: %w", err)
	}
	return nil
}

// Members returns a copy of all members seen since start, this host included,
// by name. Those that failed or left stay listed; those that Accept refuses by now do not.
func (r *Ring) Members() []Member { return r.table.list() }

// SetMeta changes what this host tells of itself. HostID cannot change. It waits
// up to a second for others to hear of it; they do later if that fails.
func (r *Ring) SetMeta(m Meta) error {
	if m.HostID != r.cfg.Meta.HostID {
		return fmt.Errorf("%w: host id cannot change", ErrMeta)
	}
	if err := r.storeMeta(m); err != nil {
		return err
	}
	list, err := r.running()
	if err != nil {
		return nil // Run starts with it
	}
	if err := list.UpdateNode(time.Second); err != nil {
		return fmt.Errorf("spread metadata: %w", err)
	}
	return nil
}

func (r *Ring) storeMeta(m Meta) error {
	b, err := m.encode()
	if err == nil {
		r.meta.Store(&b)
	}
	return err
}

// Leave announces that this host is gone for good, as after a drain. Each of its
// two messages waits up to timeout for another member to hear it. Run goes on
// until its context ends, and should then end soon.
func (r *Ring) Leave(timeout time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		return ErrNotRunning
	}
	meta, err := decodeMeta(*r.meta.Load())
	if err != nil {
		return err
	}
	meta.Leaving = true
	if err := r.storeMeta(meta); err != nil {
		return err
	}
	if err := r.list.UpdateNode(timeout); err != nil {
		return fmt.Errorf("leave gossip ring: %w", err)
	}
	if err := r.list.Leave(timeout); err != nil {
		return fmt.Errorf("leave gossip ring: %w", err)
	}
	return nil
}

// SetKeys makes keys the ring's: the first encrypts, all decrypt, what is not among them is
// forgotten. See Keyring for the steps in which that is safe.
func (r *Ring) SetKeys(keys [][]byte) error {
	if err := (Keyring{Keys: keys}).Check(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		if err := r.keys.AddKey(key); err != nil {
			return fmt.Errorf("add gossip key: %w", err)
		}
	}
	if err := r.keys.UseKey(keys[0]); err != nil {
		return fmt.Errorf("use gossip key: %w", err)
	}
	for _, old := range r.keys.GetKeys() {
		if slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, old) }) {
			continue
		}
		if err := r.keys.RemoveKey(old); err != nil {
			return fmt.Errorf("remove gossip key: %w", err)
		}
	}
	return nil
}

// Stats are counts for metrics.
type Stats struct {
	Alive, Failed, Left int
	Health              int    // 0 is best; how late this host is with its own duties
	Conflicts, Rejected uint64 // since start
}

// Stats returns the ring's counts. Cheap.
func (r *Ring) Stats() Stats {
	var s Stats
	for _, m := range r.Members() {
		switch m.State {
		case StateAlive:
			s.Alive++
		case StateFailed:
			s.Failed++
		case StateLeft:
			s.Left++
		}
	}
	r.table.mu.Lock()
	s.Conflicts, s.Rejected = r.table.conflicts, r.table.rejected
	r.table.mu.Unlock()
	if list, err := r.running(); err == nil {
		s.Health = list.GetHealthScore()
	}
	return s
}

// metaDelegate serves this host's metadata and nothing else: no state travels by
// gossip (M6).
type metaDelegate struct{ meta *atomic.Pointer[[]byte] }

// NodeMeta implements memberlist.Delegate. What is stored fits any limit.
func (d metaDelegate) NodeMeta(int) []byte { return *d.meta.Load() }

// NotifyMsg implements memberlist.Delegate.
func (metaDelegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (metaDelegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (metaDelegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (metaDelegate) MergeRemoteState([]byte, bool) {}
