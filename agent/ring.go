package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"tarn/agent/gossip"
	"tarn/controlplane/identity"
	"tarn/metrics"
	tarnv1 "tarn/proto/tarn/v1"
)

// ringStart is how long a registration waits for the ring's address.
const ringStart = 2 * time.Second

// ringPart is this host's part in the gossip ring: its keys, and who else may be in it,
// both as the control plane says over mTLS.
type ringPart struct {
	file *gossip.KeyFile
	ring *gossip.Ring
	// revoked says why an identity has no place in the ring, nil for any other.
	revoked func(id string) error
	// roster is what the control plane said last; nil: nothing yet, and then the key is all
	// that a member can show.
	roster atomic.Pointer[registered]
}

// registered are the cluster's members by id.
type registered struct {
	members map[string]gossip.Registered
	digest  []byte
}

func newRegistered(said *tarnv1.GossipRoster) *registered {
	out := &registered{members: map[string]gossip.Registered{}, digest: said.GetDigest()}
	for _, p := range said.GetPeers() {
		role := gossip.RoleAgent
		if p.GetRole() == gossip.RoleControl.String() {
			role = gossip.RoleControl
		}
		out.members[p.GetId()] = gossip.Registered{Role: role, Addr: p.GetAddress()}
	}
	return out
}

// accept is gossip.Config.Accept.
func (p *ringPart) accept(m gossip.Member) error {
	if err := p.revoked(m.Name); err != nil {
		return fmt.Errorf("%w: %w", gossip.ErrStranger, err)
	}
	known := p.roster.Load()
	if known == nil {
		return nil
	}
	r, ok := known.members[m.Name]
	if !ok {
		return fmt.Errorf("%w: %s %s at %s", gossip.ErrStranger, m.Meta.Role, m.Name, m.Addr)
	}
	return r.Confirm(m)
}

// peers are the addresses that the ring should know: those of the configuration, and
// everybody's by the control plane.
func (p *ringPart) peers(configured []string) []string {
	known := p.roster.Load()
	if known == nil {
		return configured
	}
	out := append([]string(nil), configured...)
	for id, r := range known.members {
		if r.Reachable() && p.revoked(id) == nil {
			out = append(out, r.Addr)
		}
	}
	return out
}

// state is what is reported; nil if p is: a host without a ring.
func (p *ringPart) state() *tarnv1.GossipState {
	if p == nil {
		return &tarnv1.GossipState{}
	}
	out := p.file.State(p.ring)
	if known := p.roster.Load(); known != nil {
		out.RosterDigest = known.digest
	}
	return out
}

// obey takes what the control plane says is missing here.
func (p *ringPart) obey(orders *tarnv1.GossipOrders) (changed bool, err error) {
	if p == nil || orders == nil {
		return false, nil
	}
	if orders.GetRoster() != nil {
		p.roster.Store(newRegistered(orders.GetRoster()))
		p.ring.Again()
	}
	if orders.GetKeyring() == nil {
		return false, nil
	}
	k, err := gossip.KeyringOf(orders.GetKeyring())
	if err != nil {
		return false, err
	}
	taken, err := p.file.Take(k)
	return taken || err != nil, err
}

// address is where this host is in the ring, which it waits a moment for.
func (p *ringPart) address(ctx context.Context) string {
	if p == nil {
		return ""
	}
	timer := time.NewTimer(ringStart)
	defer timer.Stop()
	select {
	case <-p.ring.Ready():
	case <-timer.C:
	case <-ctx.Done():
	}
	return p.ring.Addr()
}

func (a *Agent) buildGossip() error {
	if a.cfg.Gossip.Bind == "" {
		return nil
	}
	file, err := gossip.OpenKeyFile(a.cfg.Gossip.KeyFile)
	if err != nil {
		return err
	}
	keys := file.Keyring().Keys
	if len(keys) == 0 {
		return errors.New("gossip.bind needs a key in " + a.cfg.Gossip.KeyFile)
	}
	part := &ringPart{file: file, revoked: a.revoked.Check}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	part.ring, err = gossip.New(gossip.Config{
		Bind: a.cfg.Gossip.Bind, Advertise: a.cfg.Gossip.Advertise, Key: keys[0], OtherKeys: keys[1:], Label: a.material.Identity().Cluster,
		Profile: gossip.Profile(a.cfg.Gossip.Profile), Peers: func() []string { return part.peers(a.cfg.Gossip.Join) },
		Meta: a.gossipMeta(a.features(ctx)), Accept: part.accept,
		Refused: func(_ gossip.Member, err error) { a.counters.GossipRefused.WithLabelValues(gossip.Reason(err)).Inc() },
		Notify:  a.heardGossip, Admit: identity.NewAdmission(identity.GossipLimits()).Admit, Logger: a.log,
	})
	if err != nil {
		return err
	}
	metrics.RegisterGossipKeys(a.registry, func() int { return len(file.Keyring().Keys) })
	file.Attach(part.ring)
	a.ring = part
	return nil
}

// gossipMeta is what others see of this host in the ring.
func (a *Agent) gossipMeta(features map[string]string) gossip.Meta {
	return gossip.Meta{
		Role: gossip.RoleAgent, HostID: a.hostID, Zone: a.cfg.AvailabilityZone, StreamAddress: a.cfg.Advertise,
		Capabilities: capabilityHash(features), Pools: uint32(len(a.cfg.Pools)),
	}
}

func (a *Agent) heardGossip([]gossip.Event) {
	seen := a.ring.ring.Stats()
	for state, count := range map[gossip.State]int{
		gossip.StateAlive: seen.Alive, gossip.StateFailed: seen.Failed, gossip.StateLeft: seen.Left,
	} {
		a.counters.GossipMembers.WithLabelValues(state.String()).Set(float64(count))
	}
}

// obeyGossip follows what a report's answer says of the ring.
func (a *Agent) obeyGossip(orders *tarnv1.GossipOrders) {
	changed, err := a.ring.obey(orders)
	if err != nil {
		a.log.Error("newer keys of the gossip ring could not be taken", "err", err)
	}
	if changed {
		a.reports.soon() // the rotation waits for this host's word
	}
}
