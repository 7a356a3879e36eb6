package gossip

import (
	"bytes"

	tarnv1 "tarn/proto/tarn/v1"
)

// Message returns k as it travels over mTLS.
func (k Keyring) Message() *tarnv1.GossipKeyring {
	m := &tarnv1.GossipKeyring{Number: k.Number, Phase: k.Phase.message(), Keys: k.Keys}
	m.BegunBy, m.BegunAt = k.Begun.Message()
	return m
}

// KeyringOf reads a message and checks it.
func KeyringOf(m *tarnv1.GossipKeyring) (Keyring, error) {
	k := Keyring{Number: m.GetNumber(), Phase: Phase(m.GetPhase().String()), Begun: begunOf(m)} // a phase that Check refuses
	for _, phase := range []Phase{PhaseSettled, PhaseAdding, PhaseRetiring} {
		if phase.message() == m.GetPhase() {
			k.Phase = phase
		}
	}
	for _, key := range m.GetKeys() {
		k.Keys = append(k.Keys, bytes.Clone(key))
	}
	return k, k.Check()
}

func (p Phase) message() tarnv1.GossipPhase {
	switch p {
	case PhaseSettled:
		return tarnv1.GossipPhase_GOSSIP_PHASE_SETTLED
	case PhaseAdding:
		return tarnv1.GossipPhase_GOSSIP_PHASE_ADDING
	case PhaseRetiring:
		return tarnv1.GossipPhase_GOSSIP_PHASE_RETIRING
	}
	return tarnv1.GossipPhase_GOSSIP_PHASE_UNSPECIFIED
}

// State is what a member says of its own part: ring is nil if it takes none.
func (f *KeyFile) State(ring *Ring) *tarnv1.GossipState {
	k := f.Keyring()
	out := &tarnv1.GossipState{Running: ring != nil, Number: k.Number, Digest: k.Digest()}
	if err := f.Problem(); err != nil {
		out.Error = err.Error()
	}
	if ring != nil {
		out.Address = ring.Addr()
	}
	return out
}

// Has says that a member's state is of k.
func (k Keyring) Has(state *tarnv1.GossipState) bool {
	return state.GetNumber() == k.Number && bytes.Equal(state.GetDigest(), k.Digest())
}

// Offer returns k for a member that has to take it, or nil.
func (k Keyring) Offer(state *tarnv1.GossipState) *tarnv1.GossipKeyring {
	if len(k.Keys) == 0 || k.Number == 0 || k.Has(state) {
		return nil
	}
	if k.Number > state.GetNumber() || k.Number == state.GetNumber() && bytes.Compare(k.Digest(), state.GetDigest()) > 0 {
		return k.Message()
	}
	return nil
}
