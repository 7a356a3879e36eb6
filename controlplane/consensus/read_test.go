package consensus

import (
	"errors"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

func TestQuorumCountsOnlyAnswersToLaterQuestions(t *testing.T) {
	servers := []raft.Server{{ID: "self"}, {ID: "a"}, {ID: "b"}, {ID: "n", Suffrage: raft.Nonvoter}}
	const term = 7
	for name, test := range map[string]struct {
		acks map[raft.ServerID]ack
		want bool
	}{
		"nobody":            {nil, false},
		"one of two":        {map[raft.ServerID]ack{"a": {term: term, began: 11}}, true},
		"began before":      {map[raft.ServerID]ack{"a": {term: term, began: 10}, "b": {term: term, began: 3}}, false},
		"older term":        {map[raft.ServerID]ack{"a": {term: 6, began: 11}}, false},
		"newer term":        {map[raft.ServerID]ack{"a": {term: 8, began: 11}}, false},
		"no vote":           {map[raft.ServerID]ack{"n": {term: term, began: 11}}, false},
		"not a member":      {map[raft.ServerID]ack{"x": {term: term, began: 11}}, false},
		"late and too late": {map[raft.ServerID]ack{"a": {term: term, began: 9}, "b": {term: term, began: 12}}, true},
	} {
		table := newAckTable()
		for id, a := range test.acks {
			table.record(id, a)
		}
		if got := table.quorum(servers, "self", term, 10); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOlderAnswersDoNotReplaceNewerOnes(t *testing.T) {
	table := newAckTable()
	table.record("a", ack{term: 2, began: 5})
	table.record("a", ack{term: 2, began: 4}) // overtaken on another connection
	table.record("a", ack{term: 1, began: 3})
	if got := table.last("a"); got.term != 2 || got.began != 5 {
		t.Fatalf("%+v", got)
	}
}

// All who ask before a round begins share it; who asks later does not.
func TestRoundsServeThoseWhoAskedBefore(t *testing.T) {
	v := verifier{wake: make(chan struct{}, 1)}
	first, second := v.join(), v.join()
	if first != second || len(v.wake) != 1 {
		t.Fatal("two early callers got two rounds")
	}
	if v.begin() != first {
		t.Fatal("another round began")
	}
	if v.join() == first {
		t.Fatal("a late caller got the round that had begun")
	}
}

func TestConcurrentReadsShareRounds(t *testing.T) {
	c := three(t)
	c.write("a")
	node := c.leader().node
	before := node.acks.begin()
	var wg sync.WaitGroup
	const readers, reads = 32, 20
	for range readers {
		wg.Go(func() {
			for range reads {
				if _, err := node.ReadIndex(t.Context()); err != nil {
					t.Errorf("read: %v", err)
				}
			}
		})
	}
	wg.Wait()
	// Each round costs one position and one per heartbeat; rounds of their own
	// would make at least three positions per read.
	if used := node.acks.begin() - before; used > readers*reads {
		t.Fatalf("%d reads used %d positions", readers*reads, used)
	}
}

func TestLeadTermIsTheLeadersAlone(t *testing.T) {
	c := three(t)
	leader, other := c.leader(), c.followers()[0]
	term, err := leader.node.LeadTerm(t.Context())
	if _, _, now := leader.node.Leader(); err != nil || term == 0 || term > now {
		t.Errorf("leads term %d of %d: %v", term, now, err)
	}
	var not *NotLeaderError
	if _, err := other.node.LeadTerm(t.Context()); !errors.As(err, &not) {
		t.Errorf("a follower: %v", err)
	}
}
