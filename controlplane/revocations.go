package controlplane

import (
	"context"
	"fmt"

	"tarn/controlplane/identity"
	"tarn/raftfsm"
)

// refuseRevoked says why a node is not called any more, nil for whoever is.
func (n *Node) refuseRevoked(id string) error {
	if n.revoked(id) {
		return fmt.Errorf("%w: %s", identity.ErrRevoked, id)
	}
	return nil
}

// followRevocations cuts the open connections of whoever is revoked, until ctx ends: new
// ones and requests are refused anyway, but Raft asks once for each connection, and a poll
// that waits is asked about when it began. It returns nil.
func (n *Node) followRevocations(ctx context.Context, l *listener) error {
	var (
		stamp any
		known map[string]struct{}
	)
	for {
		v := n.fsm.View()
		if now := v.UsersStamp(); now != stamp {
			stamp, known = now, n.cutRevoked(v, l, known)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.Changed():
		}
	}
}

// cutRevoked cuts off whom the view has and known has not, and returns whom the view has.
// A restored state may have fewer.
func (n *Node) cutRevoked(v *raftfsm.View, l *listener, known map[string]struct{}) map[string]struct{} {
	now := map[string]struct{}{}
	for u := range v.Users() {
		if u.GetRevokedAt() == nil {
			continue
		}
		id := u.GetId()
		now[id] = struct{}{}
		if _, old := known[id]; old {
			continue
		}
		from, to := l.admission.Drop(id), n.peers.dialer.Drop(id)+n.stream.Drop(id)
		if from+to > 0 {
			n.log.Warn("an identity was revoked and its connections are cut", "id", id, "from_it", from, "to_it", to)
		}
	}
	return now
}
