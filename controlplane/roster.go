package controlplane

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"tarn/agent/gossip"
	"tarn/controlplane/consensus"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// roster is who may be in the ring, and where: storage hosts by what they registered in
// the replicated state, control-plane nodes by Raft's configuration and by what they told
// the leader. All of it was said over mTLS by whom it is about. Safe for concurrent use.
type roster struct {
	view func() *raftfsm.View

	mu      sync.Mutex
	control map[string]string // addresses in the ring, empty if unknown, by id
}

// members sets who the control-plane nodes are; what is known of their addresses stays.
func (r *roster) members(servers []consensus.Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[string]string{}
	for _, s := range servers {
		next[s.ID] = r.control[s.ID]
	}
	r.control = next
}

// found notes where a control-plane node is in the ring.
func (r *roster) found(id, addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, member := r.control[id]; member {
		r.control[id] = addr
	}
}

// follow takes the control-plane nodes from what the leader says.
func (r *roster) follow(said *tarnv1.GossipRoster) {
	next := map[string]string{}
	for _, p := range said.GetPeers() {
		if p.GetRole() == gossip.RoleControl.String() {
			next[p.GetId()] = p.GetAddress()
		}
	}
	if len(next) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.control = next
}

// accept is gossip.Config.Accept.
func (r *roster) accept(m gossip.Member) error {
	if r.view().Revoked(m.Name) {
		return fmt.Errorf("%w: %s %s at %s was revoked", gossip.ErrStranger, m.Meta.Role, m.Name, m.Addr)
	}
	if h, ok := r.view().Host(m.Name); ok {
		return gossip.Registered{Role: gossip.RoleAgent, Addr: hostAddress(h)}.Confirm(m)
	}
	r.mu.Lock()
	addr, ok := r.control[m.Name]
	none := len(r.control) == 0
	r.mu.Unlock()
	if ok || none && m.Meta.Role == gossip.RoleControl {
		// Before this node has heard of any member, the key is all that another can show.
		return gossip.Registered{Role: gossip.RoleControl, Addr: addr}.Confirm(m)
	}
	return fmt.Errorf("%w: %s %s at %s", gossip.ErrStranger, m.Meta.Role, m.Name, m.Addr)
}

// hostAddress is where a host is in the ring; if it did not say, on the machine of its
// other port.
func hostAddress(h *tarnv1.Host) string {
	if addr := h.GetGossipAddress(); addr != "" {
		return addr
	}
	if at, err := netip.ParseAddrPort(h.GetAddress()); err == nil {
		return netip.AddrPortFrom(at.Addr(), 0).String()
	}
	return ""
}

// list is the roster for members.
func (r *roster) list() *tarnv1.GossipRoster {
	out, v := &tarnv1.GossipRoster{}, r.view()
	for h := range v.Hosts() {
		out.Peers = append(out.Peers, &tarnv1.GossipPeer{Id: h.GetId(), Role: gossip.RoleAgent.String(), Address: hostAddress(h)})
	}
	r.mu.Lock()
	for id, addr := range r.control {
		out.Peers = append(out.Peers, &tarnv1.GossipPeer{Id: id, Role: gossip.RoleControl.String(), Address: addr})
	}
	r.mu.Unlock()
	// Who was revoked has no place in the ring, whatever else is known of it.
	out.Peers = slices.DeleteFunc(out.Peers, func(p *tarnv1.GossipPeer) bool { return v.Revoked(p.GetId()) })
	slices.SortFunc(out.Peers, func(a, b *tarnv1.GossipPeer) int { return cmp.Compare(a.GetId(), b.GetId()) })
	hash := sha256.New()
	for _, p := range out.Peers {
		// A hash.Hash never fails.
		_, _ = fmt.Fprintf(hash, "%s %s %s\n", p.GetId(), p.GetRole(), p.GetAddress())
	}
	out.Digest = hash.Sum(nil)
	return out
}

// unless returns the roster, or nil if digest is of it.
func (r *roster) unless(digest []byte) *tarnv1.GossipRoster {
	if said := r.list(); !bytes.Equal(said.GetDigest(), digest) {
		return said
	}
	return nil
}

// peers are the addresses that the ring should know.
func (r *roster) peers(configured []string) []string {
	out := slices.Clone(configured)
	for _, p := range r.list().GetPeers() {
		if (gossip.Registered{Addr: p.GetAddress()}).Reachable() && !slices.Contains(out, p.GetAddress()) {
			out = append(out, p.GetAddress())
		}
	}
	return out
}
