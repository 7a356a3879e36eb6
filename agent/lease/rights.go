package lease

import (
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// Rights are the shares that a host wants to write and those that it may: the rules
// of the lease (reliability 3.3) without clock, lock or network. A Keeper runs on
// them, and so does the model of the protocol. Instants are those of one clock that
// never goes back. Not safe for concurrent use.
type Rights struct {
	margin time.Duration
	wanted map[string]Share // by replica
	grants map[string]grant // by replica
	// beat is when Look was last called; grants of requests sent before fresh are void.
	beat, fresh time.Duration
	released    bool
}

// grant is the right to write one share until an instant.
type grant struct {
	share       Share
	sent, until time.Duration
}

// Asked is one request for the lease, as it left.
type Asked struct {
	// Nonce that the answer has to carry.
	Nonce uint64
	// Shares that were asked for, by replica.
	Shares map[string]Share
	// Sent is an instant before the request left: the lease counts from there, so that
	// a slow network only ever shortens it.
	Sent time.Duration
}

// NewRights returns rights to nothing. margin is the time before the end of a lease at
// which its holder has to have stopped by itself.
func NewRights(margin time.Duration) *Rights {
	return &Rights{margin: margin, wanted: map[string]Share{}, grants: map[string]grant{}}
}

// Want replaces the set of wanted shares; what is not in it as it was granted is not
// held any more. True if the set asks for something that it did not ask for before.
func (r *Rights) Want(shares []Share) (news bool) {
	next := make(map[string]Share, len(shares))
	for _, s := range shares {
		next[s.ReplicaID] = s
		news = news || r.wanted[s.ReplicaID] != s
	}
	news = news || len(r.wanted) == 0 && len(next) > 0
	r.wanted = next
	for id, g := range r.grants {
		if next[id] != g.share {
			delete(r.grants, id)
		}
	}
	return news
}

// wants reports that the target belongs to a wanted share.
func (r *Rights) wants(target Target) bool {
	for _, s := range r.wanted {
		if s.Target == target && !r.released {
			return true
		}
	}
	return false
}

// Ask notes what is wanted now, before a request for it leaves.
func (r *Rights) Ask(nonce uint64, now time.Duration) Asked {
	asked := Asked{Nonce: nonce, Shares: make(map[string]Share, len(r.wanted)), Sent: now}
	for id, s := range r.wanted {
		asked.Shares[id] = s
	}
	return asked
}

// Judge says which shares an answer grants and until when: those that were asked for,
// under exactly that epoch. An error means that it is not the answer to this request.
func (a Asked) Judge(answer *tarnv1.RenewLeaseResponse) (granted []Share, until time.Duration, err error) {
	if answer.GetNonce() != a.Nonce {
		return nil, 0, errStale
	}
	seen := map[string]bool{}
	for _, g := range answer.GetGranted() {
		s, ok := a.Shares[g.GetReplicaId()]
		if ok && !seen[s.ReplicaID] && g.GetShareId() == s.ShareID && g.GetEpoch() == s.Epoch {
			seen[s.ReplicaID] = true
			granted = append(granted, s)
		}
	}
	return granted, a.Sent + answer.GetDuration().AsDuration(), nil
}

// Take records shares that Judge granted, if they are still wanted as they were asked
// for. Call it when the guard has confirmed the end of the lease, not before.
func (r *Rights) Take(granted []Share, asked Asked, until time.Duration) {
	for _, s := range granted {
		if r.wanted[s.ReplicaID] == s {
			r.grants[s.ReplicaID] = grant{share: s, sent: asked.Sent, until: until}
		}
	}
}

// Revoke ends rights that the leader says are over, unless the assignment has
// meanwhile moved on to another epoch.
func (r *Rights) Revoke(revoked []*tarnv1.LeaseShare, asked Asked) {
	for _, x := range revoked {
		s, ok := asked.Shares[x.GetReplicaId()]
		if g, held := r.grants[x.GetReplicaId()]; ok && held && g.share == s {
			delete(r.grants, s.ReplicaID)
		}
	}
}

// Look notes the time. It has to be called more often than once per margin: after a
// longer pause, whose length it returns, nothing that was asked for before counts.
func (r *Rights) Look(now time.Duration) (pause time.Duration) {
	if gap := now - r.beat; r.beat != 0 && gap > r.margin {
		pause, r.fresh = gap, now
	}
	r.beat = now
	return pause
}

// Release gives everything up for good.
func (r *Rights) Release() { r.released = true }

// Held reports whether the replica may be writable under epoch at this moment.
func (r *Rights) Held(shareID, replicaID string, epoch uint64, now time.Duration) bool {
	g, ok := r.grants[replicaID]
	return ok && g.share.ShareID == shareID && g.share.Epoch == epoch && r.valid(g, now)
}

// valid is the law: sent before no pause, the margin not reached, the watch alive.
func (r *Rights) valid(g grant, now time.Duration) bool {
	return !r.released && g.sent >= r.fresh && now < g.until-r.margin && now-r.beat <= r.margin
}

// held are the replicas that may be written now.
func (r *Rights) held(now time.Duration) map[string]bool {
	out := make(map[string]bool, len(r.grants))
	for id, g := range r.grants {
		if r.valid(g, now) {
			out[id] = true
		}
	}
	return out
}

// deadline is when the first of the held leases ends, the margin not taken off.
func (r *Rights) deadline(now time.Duration) (first time.Duration, found bool) {
	for _, g := range r.grants {
		if r.valid(g, now) && (!found || g.until < first) {
			first, found = g.until, true
		}
	}
	return first, found
}

// next is when the first lease is to be given up, wait from now at the latest.
func (r *Rights) next(now, wait time.Duration) time.Duration {
	for _, g := range r.grants {
		if left := g.until - r.margin - now; left > 0 {
			wait = min(wait, left)
		}
	}
	return wait
}
