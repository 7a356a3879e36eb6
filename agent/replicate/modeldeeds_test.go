package replicate

import (
	"fmt"
	"strings"

	raftv1 "tarn/proto/tarn/raft/v1"
)

type deedKind uint8

const (
	deedTick deedKind = iota
	deedPlanned
	deedForced
	deedBegin
	deedCancel
	deedAttest
	deedPlan
	deedCommit
	deedElection
	deedElectionDeaf
	deedLag
	deedUserSnapshot
	deedWrite
	deedSnapshot
	deedStart
	deedCrash
	deedBoot
	deedAssign
	deedAssignOld
	deedRound
	deedWork
	deedDecide
	deedLate
	deedReport
	deedSettle
	deedPull
	deedAsk
	deedVerify
	deedGrant
	deedAnswer
	deedReceive
	deedStray
	deedLose
)

// deedTexts have the host's name for %s.
var deedTexts = map[deedKind]string{
	deedPlanned: "an operator begins a planned promotion", deedForced: "an operator forces the failover",
	deedBegin:  "the leader begins the promotion that was prepared",
	deedCancel: "an operator cancels the promotion", deedAttest: "an operator attests that the owner's host is off",
	deedElection:     "another node becomes leader; reports of before reach it late",
	deedElectionDeaf: "another node becomes leader and has heard no report",
	deedLag:          "a node falls behind", deedUserSnapshot: "a user asks for a snapshot",
	deedWrite: "a client writes on host %s", deedSnapshot: "host %s takes a snapshot",
	deedStart: "the agent of host %s starts", deedCrash: "the agent of host %s dies", deedBoot: "host %s restarts",
	deedAssign: "host %s gets its assignment", deedAssignOld: "host %s gets its assignment from a node that is behind",
	deedRound: "the worker of host %s does what is to be done", deedReport: "host %s reports",
	deedSettle: "host %s tells its dead-man that nothing can be written", deedPull: "host %s pulls",
	deedAsk: "host %s asks for a lease", deedReceive: "host %s receives the answer",
	deedGrant:  "the leader looks up what host %s may have, and notes the grant",
	deedAnswer: "the leader answers host %s", deedStray: "host %s receives the answer to an earlier request",
	deedLose: "the lease request of host %s is lost",
}

// tell says what a deed does in a world.
func (m *machine) tell(w world, d deed) string {
	host := hostNames[d.host]
	switch d.what {
	case deedTick:
		text := "a tick"
		for i, h := range hostNames {
			if d.arg>>i&1 == 1 {
				text += ", which the clock of host " + h + " misses"
			}
		}
		return text
	case deedPlan, deedCommit:
		word := map[deedKind]string{deedPlan: "the leader plans", deedCommit: "committed:"}[d.what]
		cmd := m.ctl.commands.get(d.arg)
		return fmt.Sprintf("%s %s", word, shortCommand(cmd))
	case deedVerify:
		if d.arg == 1 {
			return fmt.Sprintf("the deposed leader takes the request of host %s without asking a quorum", host)
		}
		return fmt.Sprintf("a quorum confirms the leader to whom host %s asked", host)
	case deedLate:
		return fmt.Sprintf("host %s goes on after a pause: %s", host, lateKinds[d.arg])
	case deedWork, deedDecide:
		a := m.agents.get(w.agents[d.host])
		does := m.look(&a, d.host, w.past).does
		switch {
		case d.what == deedDecide:
			return fmt.Sprintf("host %s decides to %s, and is paused", host, does)
		case d.arg > 0:
			return fmt.Sprintf("host %s: %s, and its agent dies after %d changes", host, does, d.arg)
		}
		return fmt.Sprintf("host %s: %s", host, does)
	}
	return strings.ReplaceAll(deedTexts[d.what], "%s", host)
}

// shortCommand is what matters of a command.
func shortCommand(cmd *raftv1.Command) string {
	switch v := cmd.GetVerb().(type) {
	case *raftv1.Command_CommitDemotion:
		return fmt.Sprintf("the owner has stopped with snapshot %d", v.CommitDemotion.GetFinalGuid())
	case *raftv1.Command_CommitSeal:
		return fmt.Sprintf("the target is sealed at snapshot %d", v.CommitSeal.GetHeadGuid())
	case *raftv1.Command_CommitProof:
		return fmt.Sprintf("proof %s", v.CommitProof.GetProof())
	case *raftv1.Command_Activate:
		return fmt.Sprintf("activate under epoch %d from snapshot %d", v.Activate.GetEpoch()+1, v.Activate.GetHeadGuid())
	}
	return fmt.Sprintf("%T", cmd.GetVerb())
}
