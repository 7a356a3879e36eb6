package controlplane

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"tarn/agent/gossip"
	"tarn/controlplane/consensus"
	"tarn/controlplane/observe"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

const (
	// rotationPause between looks at the members while a rotation is under way, and
	// ringPause when none is: late comers and new addresses are passed on.
	rotationPause = 500 * time.Millisecond
	ringPause     = 10 * time.Second
	exchangeTime  = 3 * time.Second
)

// ringKeeper is this node's part in what the members of the ring are told over mTLS: its
// keys, and who they are. The leader's drives a rotation from step to step. Where a
// rotation is stands in the key files alone, so that any leader goes on with it.
type ringKeeper struct {
	self     consensus.Server
	file     *gossip.KeyFile
	ring     *gossip.Ring // nil: this node takes no part
	roster   *roster
	view     func() *raftfsm.View
	soft     *observe.State
	servers  func() ([]consensus.Server, error)
	exchange func(ctx context.Context, addr string, req *tarnv1.ExchangeGossipRequest) (*tarnv1.ExchangeGossipResponse, error)
	// confirm that this node still leads.
	confirm func(context.Context) error
	warn    func(msg string, args ...any)
	kick    chan struct{}

	begin   sync.Mutex // one beginning at a time
	mu      sync.Mutex
	answers map[string]answer // of the other control-plane nodes, by id; nil: none was asked
}

// answer is what a control-plane node last said, or why it did not.
type answer struct {
	state *tarnv1.GossipState
	err   error
}

// KeyFile implements api.Gossip.
func (k *ringKeeper) KeyFile() (first, file []byte) {
	keyring := k.file.Keyring()
	if len(keyring.Keys) == 0 {
		return nil, nil
	}
	return keyring.Keys[0], keyring.Text()
}

// Orders implements api.Gossip.
func (k *ringKeeper) Orders(state *tarnv1.GossipState) *tarnv1.GossipOrders {
	orders := &tarnv1.GossipOrders{Keyring: k.file.Keyring().Offer(state), Roster: k.roster.unless(state.GetRosterDigest())}
	if orders.Keyring == nil && orders.Roster == nil {
		return nil
	}
	return orders
}

// Exchange implements api.Gossip.
func (k *ringKeeper) Exchange(req *tarnv1.ExchangeGossipRequest) (*tarnv1.ExchangeGossipResponse, error) {
	if len(req.GetKeyring().GetKeys()) > 0 {
		theirs, err := gossip.KeyringOf(req.GetKeyring())
		if err != nil {
			return nil, err
		}
		k.take(theirs)
	}
	if req.GetRoster() != nil {
		k.roster.follow(req.GetRoster())
	}
	out := &tarnv1.ExchangeGossipResponse{State: k.file.State(k.ring)}
	if mine := k.file.Keyring(); len(mine.Keys) > 0 {
		out.Keyring = mine.Message()
	}
	return out, nil
}

// take takes a newer key ring. What fails is told to whoever asks for this node's state.
func (k *ringKeeper) take(keyring gossip.Keyring) {
	if _, err := k.file.Take(keyring); err != nil {
		k.warn("newer keys of the gossip ring could not be taken", "number", keyring.Number, "err", err)
	}
}

// Rotate implements api.Gossip.
func (k *ringKeeper) Rotate(ctx context.Context, by string) error {
	k.begin.Lock()
	defer k.begin.Unlock()
	have := k.file.Keyring()
	switch {
	case len(have.Keys) == 0:
		return refusedRotation("this cluster has no gossip key: write one into gossip.key_file of every member and restart it")
	case have.Phase != gossip.PhaseSettled:
		k.wake()
		return nil // It goes on.
	}
	if err := k.confirm(ctx); err != nil {
		return err
	}
	k.ask(ctx)
	if k.file.Keyring().NewerThan(have) {
		return nil // An earlier leader began one.
	}
	// Every control-plane node has to confirm each step, since any may lead the next.
	for _, m := range k.controlMembers(have) {
		if m.GetError() != "" {
			return refusedRotation("control-plane node %s: %s; start it, or remove it with `tarn operator raft remove`", m.GetId(), m.GetError())
		}
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("draw gossip key: %w", err)
	}
	next, err := have.Begin(key)
	if err == nil {
		next.Begun = gossip.BegunBy(by, time.Now())
		_, err = k.file.Take(next)
	}
	if err != nil {
		return refusedRotation("%v", err)
	}
	k.wake()
	return nil
}

func refusedRotation(format string, args ...any) error {
	return &raftfsm.Error{Code: raftfsm.FailedPrecondition, Message: fmt.Sprintf(format, args...)}
}

func (k *ringKeeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// lead looks at all members during one leadership, and takes the next step of a rotation
// when all have confirmed the one before.
func (k *ringKeeper) lead(ctx context.Context) error {
	k.mu.Lock()
	k.answers = nil
	k.mu.Unlock()
	for ctx.Err() == nil {
		k.ask(ctx)
		pause := ringPause
		if now := k.Keys(); now.GetPhase() != tarnv1.GossipPhase_GOSSIP_PHASE_SETTLED || len(now.GetWaitsFor()) > 0 {
			pause = rotationPause
			k.step(ctx, now)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-k.kick:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// step takes the next step if nobody is waited for. That this node leads is confirmed
// first: one that was deposed does not know who is up.
func (k *ringKeeper) step(ctx context.Context, now *tarnv1.GossipKeys) {
	have := k.file.Keyring()
	if have.Phase == gossip.PhaseSettled || have.Number != now.GetNumber() || len(now.GetWaitsFor()) > 0 || k.confirm(ctx) != nil {
		return
	}
	k.take(have.Next())
	k.wake() // to pass it on at once
}

// ask exchanges keys and addresses with all other control-plane nodes.
func (k *ringKeeper) ask(ctx context.Context) {
	servers, err := k.servers()
	if err != nil {
		return
	}
	k.roster.members(servers)
	if k.ring != nil {
		k.roster.found(k.self.ID, k.ring.Addr())
	}
	req := &tarnv1.ExchangeGossipRequest{Id: k.self.ID, Roster: k.roster.list()}
	if mine := k.file.Keyring(); len(mine.Keys) > 0 {
		req.Keyring = mine.Message()
	}
	var asking sync.WaitGroup
	var mu sync.Mutex
	heard := map[string]answer{}
	for _, s := range servers {
		if s.ID == k.self.ID {
			continue
		}
		asking.Go(func() {
			a := k.askOne(ctx, s, req)
			mu.Lock()
			defer mu.Unlock()
			heard[s.ID] = a
		})
	}
	asking.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answers = heard
}

func (k *ringKeeper) askOne(ctx context.Context, s consensus.Server, req *tarnv1.ExchangeGossipRequest) answer {
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	res, err := k.exchange(ctx, s.Addr, req)
	if err != nil {
		return answer{err: err}
	}
	k.roster.found(s.ID, res.GetState().GetAddress())
	if len(res.GetKeyring().GetKeys()) > 0 {
		theirs, err := gossip.KeyringOf(res.GetKeyring())
		if err != nil {
			return answer{err: err}
		}
		k.take(theirs) // a former leader was further
	}
	return answer{state: res.GetState()}
}
