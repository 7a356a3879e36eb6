package controlplane

import (
	"context"
	"errors"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"tarn/controlplane/consensus"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// overtaken is a log that leads term 3 but stores under the term it is told.
type overtaken struct {
	fsm    *raftfsm.FSM
	stored uint64
	index  uint64
}

func (l *overtaken) ID() string                                { return "n" }
func (l *overtaken) LeadTerm(context.Context) (uint64, error)  { return 3, nil }
func (l *overtaken) ReadIndex(context.Context) (uint64, error) { return l.index, nil }

func (l *overtaken) Propose(_ context.Context, data []byte) (any, uint64, error) {
	l.index++
	return l.fsm.Apply(&raft.Log{Index: l.index, Term: l.stored, Data: data}), l.index, nil
}

// TestLeadershipLostWhileWaiting: the author hears that the outcome is unknown, the
// state is as before, and the same command may be repeated.
func TestLeadershipLostWhileWaiting(t *testing.T) {
	fsm := raftfsm.New(raftfsm.Config{})
	node := &overtaken{fsm: fsm, stored: 4}
	counts := map[string]int{}
	log := &commandLog{node: node, gate: newGate(fsm), counted: func(_, result string) { counts[result]++ }}
	cmd := &raftv1.Command{Verb: &raftv1.Command_InitCluster{InitCluster: &raftv1.InitCluster{ClusterId: "c"}}}
	_, err := log.Propose(t.Context(), proto.CloneOf(cmd))
	if !errors.Is(err, consensus.ErrUnknownOutcome) || fsm.View().ClusterID() != "" {
		t.Errorf("stored under another term: %v, cluster %q", err, fsm.View().ClusterID())
	}
	node.stored = 3
	res, err := log.Propose(t.Context(), cmd)
	if err != nil || res.Err != nil || fsm.View().ClusterID() != "c" {
		t.Errorf("repeated: %+v, %v", res, err)
	}
	if cmd.GetProposerTerm() != 3 || cmd.GetProposerId() != "n" {
		t.Errorf("stamped %q in term %d", cmd.GetProposerId(), cmd.GetProposerTerm())
	}
	if counts["unknown"] != 1 || counts["applied"] != 1 {
		t.Errorf("counted %v", counts)
	}
}

// TestKeysWaitForTheClustersVersion: members that would do a command again get it
// without its key; later a repetition is known by it, and counted as one.
func TestKeysWaitForTheClustersVersion(t *testing.T) {
	fsm := raftfsm.New(raftfsm.Config{})
	node := &overtaken{fsm: fsm, stored: 3}
	counts := map[string]int{}
	log := &commandLog{node: node, gate: newGate(fsm), counted: func(_, result string) { counts[result]++ }}
	send := func() *raftfsm.Result {
		cmd := &raftv1.Command{Verb: &raftv1.Command_PutQuota{PutQuota: &raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{ProjectId: "p", Limits: map[string]int64{"shares": 1}}}}}
		cmd.Key = &raftv1.RequestKey{Key: "k"}
		res, err := log.Propose(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	send()
	if send().Repeated || counts["applied"] != 2 {
		t.Errorf("at version 1: counted %v", counts)
	}
	if _, err := log.Propose(t.Context(), &raftv1.Command{Verb: &raftv1.Command_SetCommandVersion{
		SetCommandVersion: &raftv1.SetCommandVersion{Version: raftfsm.KeyVersion},
	}}); err != nil {
		t.Fatal(err)
	}
	send()
	if !send().Repeated || counts["repeated"] != 1 {
		t.Errorf("counted %v", counts)
	}
}
