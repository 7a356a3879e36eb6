package controlplane

import (
	"cmp"
	"fmt"
	"slices"

	"tarn/agent/gossip"
	tarnv1 "tarn/proto/tarn/v1"
)

// Keys implements api.Gossip.
func (k *ringKeeper) Keys() *tarnv1.GossipKeys {
	have := k.file.Keyring()
	out := &tarnv1.GossipKeys{Number: have.Number, Phase: have.Message().GetPhase(), Fingerprints: have.Fingerprints()}
	out.BegunBy, out.BegunAt = have.Begun.Message()
	out.Members = append(k.controlMembers(have), k.hostMembers(have)...)
	if have.Number == 0 {
		return out // Written by hand: nobody is given it.
	}
	for _, m := range out.GetMembers() {
		if m.GetRequired() && !m.GetConfirmed() {
			out.WaitsFor = append(out.WaitsFor, fmt.Sprintf("%s %s: %s", m.GetRole(), cmp.Or(m.GetName(), m.GetId()), m.GetError()))
		}
	}
	return out
}

// controlMembers says how far the control-plane nodes are. All are required, up or not.
func (k *ringKeeper) controlMembers(have gossip.Keyring) []*tarnv1.GossipMember {
	servers, err := k.servers()
	if err != nil {
		return nil
	}
	k.mu.Lock()
	answers := k.answers
	k.mu.Unlock()
	var out []*tarnv1.GossipMember
	for _, s := range servers {
		m := &tarnv1.GossipMember{Id: s.ID, Role: gossip.RoleControl.String(), Required: true}
		a, asked := answers[s.ID]
		switch {
		case s.ID == k.self.ID:
			confirms(m, have, k.file.State(k.ring))
		case !asked:
			m.Error = "was not asked yet"
		case a.err != nil:
			m.Error = fmt.Sprintf("%s does not answer: %v", s.Addr, a.err)
		default:
			confirms(m, have, a.state)
		}
		out = append(out, m)
	}
	return out
}

// hostMembers says how far the storage hosts are by their reports. Those that are up are
// required; others are given the keys when they come back. Revoked ones never are.
func (k *ringKeeper) hostMembers(have gossip.Keyring) []*tarnv1.GossipMember {
	var out []*tarnv1.GossipMember
	v := k.view()
	for h := range v.Hosts() {
		if v.Revoked(h.GetId()) {
			continue
		}
		m := &tarnv1.GossipMember{
			Id: h.GetId(), Name: h.GetName(), Role: gossip.RoleAgent.String(), Required: h.GetState() == tarnv1.HostState_HOST_STATE_UP,
		}
		seen, ok := k.soft.Host(h.GetId())
		switch {
		case !ok:
			m.Error = "has not reported to this leader yet"
		case seen.Gossip == nil:
			m.Error = "runs a tarn that does not know of this: upgrade it"
		default:
			confirms(m, have, seen.Gossip)
			// Who has no part in the ring has nothing to confirm.
			m.Confirmed = m.GetConfirmed() || !m.GetRunning()
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *tarnv1.GossipMember) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

func confirms(m *tarnv1.GossipMember, have gossip.Keyring, state *tarnv1.GossipState) {
	m.Running, m.Address, m.Number = state.GetRunning(), state.GetAddress(), state.GetNumber()
	m.Confirmed, m.Error = have.Has(state) && state.GetError() == "", state.GetError()
	if !m.GetConfirmed() && m.GetError() == "" && have.Number > 0 {
		m.Error = fmt.Sprintf("has keys number %d, not yet %d", state.GetNumber(), have.Number)
	}
}
