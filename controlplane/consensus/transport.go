package consensus

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// transport changes two things about raft's own.
//
// It keeps heartbeats off the connection's goroutine: there, a newer term makes
// raft 1.8.0 change term and state under the leader's feet, which can store an
// entry under a term that this node never won (raft#695; reliability.md 2.1).
//
// It notes when each acknowledged request began. raft's VerifyLeader counts any
// answer that arrives after the question, also to a heartbeat or to entries
// sent long before it, when the follower may since have voted for another.
type transport struct {
	*raft.NetworkTransport
	acks *ackTable
}

// SetHeartbeatHandler ignores the fast path: heartbeats go the way of all RPCs.
func (t transport) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntries implements raft.Transport. Heartbeats come through here;
// pipelined entries do not, and need not.
func (t transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	began := t.acks.begin()
	err := t.NetworkTransport.AppendEntries(id, target, req, resp)
	if err == nil && resp.Term == req.Term {
		t.acks.record(id, ack{term: req.Term, began: began, lastLog: resp.LastLog, at: time.Now()})
	}
	return err
}

// ack is the newest proof that a follower was in a term.
type ack struct {
	term    uint64
	began   uint64 // position of the request's start in the order of ackTable.begin
	lastLog uint64 // follower's last log index at that time
	at      time.Time
}

// ackTable holds the newest ack of each follower.
type ackTable struct {
	changed signal

	mu    sync.Mutex
	clock uint64
	peers map[raft.ServerID]ack
}

func newAckTable() *ackTable { return &ackTable{peers: map[raft.ServerID]ack{}} }

// begin returns the next position in the order of events.
func (t *ackTable) begin() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clock++
	return t.clock
}

func (t *ackTable) record(id raft.ServerID, a ack) {
	t.mu.Lock()
	if old := t.peers[id]; a.term > old.term || a.began > old.began {
		t.peers[id] = a
	}
	t.mu.Unlock()
	t.changed.fire()
}

func (t *ackTable) last(id raft.ServerID) ack {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peers[id]
}

// quorum tells whether a majority of the voters, self included, was in term at
// some moment after position start.
func (t *ackTable) quorum(servers []raft.Server, self raft.ServerID, term, start uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	voters, with := 0, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if a := t.peers[s.ID]; s.ID == self || a.term == term && a.began > start {
			with++
		}
	}
	return with > voters/2
}
