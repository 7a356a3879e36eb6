package reconcile

import (
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// Bounds of how long a command that changed nothing rests before it is tried again.
const (
	firstRest = time.Second
	longRest  = time.Minute
)

// memory keeps the log free of repetitions. Step asks for what is missing; when
// the state machine refuses it, the same question comes up in every round.
type memory struct {
	asked map[string]asked
}

type asked struct {
	rest  time.Duration
	again time.Time
	seen  time.Time
}

// due returns the commands to propose now. One that comes up again is held back
// for a time that doubles.
func (m *memory) due(commands []*raftv1.Command, now time.Time) []*raftv1.Command {
	if m.asked == nil {
		m.asked = make(map[string]asked)
	}
	var out []*raftv1.Command
	for _, cmd := range commands {
		key := subject(cmd)
		a, known := m.asked[key]
		if known && now.Before(a.again) {
			a.seen = now
			m.asked[key] = a
			continue
		}
		a.rest = min(max(firstRest, 2*a.rest), longRest)
		a.again, a.seen = now.Add(a.rest), now
		m.asked[key] = a
		out = append(out, cmd)
	}
	for key, a := range m.asked {
		if now.Sub(a.seen) > longRest {
			delete(m.asked, key)
		}
	}
	return out
}

// forget is for commands that did not come into the log.
func (m *memory) forget(commands []*raftv1.Command) {
	for _, cmd := range commands {
		delete(m.asked, subject(cmd))
	}
}

// subject names what a command is about, the same for each attempt: ids that are
// made anew for each and stamps of time are left out.
func subject(cmd *raftv1.Command) string {
	switch v := cmd.GetVerb().(type) {
	case *raftv1.Command_Transitions:
		return "transitions " + fingerprint(v.Transitions)
	case *raftv1.Command_CreateReplica:
		r := v.CreateReplica.GetReplica()
		return fmt.Sprintf("create replica of share %s on host %s pool %s", r.GetShareId(), r.GetHostId(), r.GetPool())
	case *raftv1.Command_PromoteReplica:
		return fmt.Sprintf("promote replica %s epoch %d, prepare %v", v.PromoteReplica.GetId(), v.PromoteReplica.GetExpectedEpoch(), v.PromoteReplica.GetCatchUp())
	case *raftv1.Command_DeleteReplica:
		return fmt.Sprintf("delete replica %s revision %d", v.DeleteReplica.GetId(), v.DeleteReplica.GetExpectedRevision())
	}
	plain := proto.CloneOf(cmd)
	plain.ProposedAt = nil
	return fmt.Sprintf("%T %s", cmd.GetVerb(), sum(plain))
}

func fingerprint(t *raftv1.Transitions) string {
	plain := proto.CloneOf(t)
	for _, m := range plain.GetMessages() {
		m.Id, m.CreatedAt, m.ExpiresAt = "", nil, nil
	}
	for _, r := range plain.GetReplicas() {
		for _, e := range r.GetExportLocations() {
			e.Id = ""
		}
	}
	return sum(plain)
}

func sum(m proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return err.Error()
	}
	h := sha256.Sum256(b)
	return fmt.Sprintf("%x", h[:8])
}
