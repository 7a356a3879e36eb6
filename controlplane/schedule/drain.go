package schedule

import (
	"fmt"

	tarnv1 "tarn/proto/tarn/v1"
)

// ReplacesKey is the metadata key of a replica that a drain made: its value is
// the id of the replica whose place it takes. It is what makes a drain
// resumable: the plan is derived from the replicas alone, each time anew.
const ReplacesKey = "tarn:replaces"

// DrainShare is a share with a replica on a draining host.
type DrainShare struct {
	ShareID string
	// Name is for sentences.
	Name string
	// ReplicationType UNSPECIFIED: the share cannot move.
	ReplicationType tarnv1.ReplicationType
	// Promoting is true while a promotion runs.
	Promoting bool
	Replicas  []DrainReplica
}

// DrainReplica is one of a share's replicas.
type DrainReplica struct {
	ID string
	// Replaces is the value of ReplacesKey.
	Replaces string
	// Draining and Down describe its host.
	Draining bool
	Down     bool
	// Owner is the replica that may write.
	Owner  bool
	Status tarnv1.Status
	State  tarnv1.ReplicaState
	// Keyless: the share is encrypted and the host is not known to have its key.
	Keyless bool
}

// DrainAction is what to do next.
type DrainAction int

// What a drain does next with a replica.
const (
	// DrainWait: nothing now; Reason says for what.
	DrainWait DrainAction = iota
	// DrainCreate: add a replica elsewhere with ReplacesKey = ReplicaID.
	DrainCreate
	// DrainPromote: promote ReplicaID, which is elsewhere.
	DrainPromote
	// DrainDelete: ReplicaID on the draining host is replaced; delete it.
	DrainDelete
)

// DrainStep is the next step for one replica on a draining host.
type DrainStep struct {
	Action DrainAction
	// Replica on the draining host that the step is about.
	Leaving string
	// ReplicaID is what the action applies to.
	ReplicaID string
	// Reason is one sentence for the operator; set with DrainWait.
	Reason string
}

// PlanDrain returns one step for each of the share's replicas that sit on a
// draining host and are not leaving yet, in their order. At most one step of a
// share creates or promotes; the others wait.
//
// A replica is deleted only when its own replacement is there and holds the
// data (active or in_sync): the share never has fewer good copies than before.
func PlanDrain(share DrainShare) []DrainStep {
	var steps []DrainStep
	busy := share.Promoting
	for i := range share.Replicas {
		r := &share.Replicas[i]
		if !r.Draining || leaving(r.Status) {
			continue
		}
		step := share.next(r)
		step.Leaving = r.ID
		switch {
		case share.Promoting:
			step = DrainStep{Leaving: r.ID, Reason: share.say("waits for the promotion that is running")}
		case step.Action == DrainWait:
		case busy:
			step = DrainStep{Leaving: r.ID, Reason: share.say("waits for another of its replicas to move")}
		default:
			busy = true
		}
		steps = append(steps, step)
	}
	return steps
}

// leaving reports a replica that is on its way out already, deleted or given back.
func leaving(st tarnv1.Status) bool {
	switch st {
	case tarnv1.Status_STATUS_DELETING, tarnv1.Status_STATUS_UNMANAGE_STARTING, tarnv1.Status_STATUS_UNMANAGE_ERROR,
		tarnv1.Status_STATUS_MANAGE_ERROR_UNMANAGE_STARTING:
		return true
	}
	return false
}

// takingOver reports a replica whose dataset is not yet tarn's to move or to delete.
func takingOver(st tarnv1.Status) bool {
	return st == tarnv1.Status_STATUS_MANAGE_STARTING || st == tarnv1.Status_STATUS_MANAGE_ERROR
}

func (s *DrainShare) say(what string) string {
	return fmt.Sprintf("share %s (%s) %s", s.Name, s.ShareID, what)
}

func (s *DrainShare) next(r *DrainReplica) DrainStep {
	if s.ReplicationType == tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED {
		return DrainStep{Reason: s.say("is not replicated, so tarn cannot move it: delete it, or copy its data to a share of a replicated type")}
	}
	if r.Owner && r.Down {
		return DrainStep{Reason: s.say("has its active replica on this host, which is down: promote another replica with --force")}
	}
	if takingOver(r.Status) {
		return DrainStep{Reason: s.say("has a dataset here that is still being taken over: wait, or unmanage it")}
	}
	replacement := s.replacement(r)
	switch {
	case replacement == nil && s.ownerUnusable():
		return DrainStep{Reason: s.say("has no active replica that is available to copy from")}
	case replacement == nil:
		return DrainStep{Action: DrainCreate, ReplicaID: r.ID}
	case !replacement.good():
		return DrainStep{Reason: s.say(fmt.Sprintf("waits for replica %s, which takes the place of %s, to be in_sync", replacement.ID, r.ID))}
	case r.Owner && replacement.Keyless:
		return DrainStep{Reason: s.say(fmt.Sprintf("waits for its key: copy the key file to the host of replica %s, which takes over", replacement.ID))}
	case r.Owner:
		return DrainStep{Action: DrainPromote, ReplicaID: replacement.ID}
	}
	return DrainStep{Action: DrainDelete, ReplicaID: r.ID}
}

// replacement finds the replica made for r. One that has come to sit on a
// draining host itself, or is being deleted, does not count.
func (s *DrainShare) replacement(r *DrainReplica) *DrainReplica {
	for i := range s.Replicas {
		c := &s.Replicas[i]
		if c.Replaces == r.ID && !c.Draining && !leaving(c.Status) {
			return c
		}
	}
	return nil
}

func (s *DrainShare) ownerUnusable() bool {
	for i := range s.Replicas {
		if r := &s.Replicas[i]; r.Owner {
			return r.Status != tarnv1.Status_STATUS_AVAILABLE || r.Down
		}
	}
	return true
}

// good reports that the replica holds the data now.
func (r *DrainReplica) good() bool {
	return !r.Down && r.Status == tarnv1.Status_STATUS_AVAILABLE &&
		(r.Owner || r.State == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE || r.State == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC)
}
