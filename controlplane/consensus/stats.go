package consensus

import (
	"time"

	"github.com/hashicorp/raft"
)

// Stats is a node's state at one moment, for metrics and status.
type Stats struct {
	State         string // "Leader", "Follower", "Candidate", "Shutdown"; empty when not running
	Term          uint64
	LastIndex     uint64 // newest entry in the log
	CommitIndex   uint64
	AppliedIndex  uint64 // of the state machine
	LeaderID      string // empty if unknown
	Elections     uint64 // won by this node since start
	Voters        int
	Nonvoters     int
	LastContact   time.Duration // since the leader was heard; 0 on the leader, -1 if never
	FollowersSeen []Follower    // on the leader, in no order
}

// Follower is what the leader last heard of another member.
type Follower struct {
	ID      string
	Behind  uint64        // entries
	Contact time.Duration // since the last answer, -1 if none in this term
}

// Stats returns the node's state. Cheap; safe to call at every scrape.
func (n *Node) Stats() Stats {
	r, err := n.running()
	if err != nil {
		return Stats{AppliedIndex: n.AppliedIndex()}
	}
	id, _, term := n.Leader()
	s := Stats{
		State:        r.State().String(),
		Term:         term,
		LastIndex:    r.LastIndex(),
		CommitIndex:  r.CommitIndex(),
		AppliedIndex: n.AppliedIndex(),
		LeaderID:     id,
		Elections:    n.lead.changes.Load(),
		LastContact:  since(r.LastContact()),
	}
	servers, err := members(r)
	if err != nil {
		return s // shutting down: the rest is still true
	}
	s.Voters = voters(servers)
	s.Nonvoters = len(servers) - s.Voters
	if r.State() == raft.Leader {
		s.LastContact = 0
		s.FollowersSeen = n.followers(servers, s)
	}
	return s
}

func (n *Node) followers(servers []Server, s Stats) []Follower {
	var out []Follower
	for _, server := range servers {
		if server.ID == n.cfg.ID {
			continue
		}
		f := Follower{ID: server.ID, Behind: s.LastIndex, Contact: -1}
		if a := n.acks.last(raft.ServerID(server.ID)); a.term == s.Term {
			f.Contact = since(a.at)
			f.Behind = s.LastIndex - min(a.lastLog, s.LastIndex)
		}
		out = append(out, f)
	}
	return out
}

func since(t time.Time) time.Duration {
	if t.IsZero() {
		return -1
	}
	return time.Since(t)
}

// LogStats is how the log lies on disk.
type LogStats struct {
	// OldestAge of the entries that are kept, by the wall clock of the leader that made
	// them, not negative: a follower that is further behind needs a snapshot. -1 if unknown.
	OldestAge time.Duration
	// FreePages of the file, which never shrinks; -1 if unknown.
	FreePages int
}

// LogStats reads the oldest entry. It may be called at every scrape.
func (n *Node) LogStats() LogStats {
	out := LogStats{OldestAge: -1, FreePages: -1}
	if _, err := n.running(); err != nil {
		return out
	}
	stats := n.disk.Stats()
	out.FreePages = stats.FreePageN + stats.PendingPageN
	first, err := n.logs.FirstIndex()
	if err != nil || first == 0 {
		return out // no log yet, or none any more
	}
	// The entry that founded the cluster has no time.
	for index := first; index < first+2; index++ {
		var oldest raft.Log
		if n.logs.GetLog(index, &oldest) == nil && !oldest.AppendedAt.IsZero() {
			out.OldestAge = max(0, time.Since(oldest.AppendedAt))
			break
		}
	}
	return out
}
