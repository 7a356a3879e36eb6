package replicate

import (
	"context"
	"reflect"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Hooks hear of work done, for metrics. Every field is optional and must not block.
type Hooks struct {
	// Step is a finished pull: kind and result as tarn_steps_total has them.
	Step func(shareID, replicaID, kind, result string)
	// Phase is how long a phase took: plan, receive, verify, prune.
	Phase func(phase string, d time.Duration)
	// Bytes arrived from a source; called while a stream runs.
	Bytes func(shareID, replicaID string, n int64)
	// Discarded are bytes of half a receive that were thrown away, by reason:
	// dead_token, role, diverged or removed.
	Discarded func(reason string, n int64)
	// Error is a failed action by class.
	Error func(code tarnv1.ReplicaErrorCode)
	// Fence is an action that ended the right to write, or failed to: suspend,
	// demote or seal.
	Fence func(action string, err error)
	// Holds on the replica's snapshots by kind (step, last, divergent, foreign), as
	// retention last counted them.
	Holds func(replicaID string, byKind map[string]int)
	// StaleHolds were released: nobody has known their replicas for an hour.
	StaleHolds func(n int)
	// Pruned counts snapshots that retention removed, by side: source or target.
	Pruned func(side string, n int)
	// PruneFailed is one that it could not: held, clones, busy or error.
	PruneFailed func(side, reason string)
	// Retained is what the replica's retention left when it last ran.
	Retained func(replicaID string, r Retained)
	// Diverged is a copy put aside.
	Diverged func(shareID string)
}

// Retained is what retention left on one replica.
type Retained struct {
	// At is when it ran.
	At time.Time
	// Total are the snapshots that it found, whoever they belong to; First is when the
	// oldest was taken.
	Total int
	First time.Time
	// Keep is the age beyond which the policy keeps nothing; 0 without one.
	Keep time.Duration
	// Oldest is when the oldest snapshot was taken that is here for the policy's sake or
	// should not be here any more; zero if there is none.
	Oldest time.Time
	// Overdue counts the latter: held or cloned by others, or refused by the storage.
	Overdue int
}

// withDefaults replaces what is unset by functions that do nothing.
func (h Hooks) withDefaults() Hooks {
	unset(&h.Step, func(string, string, string, string) {})
	unset(&h.Phase, func(string, time.Duration) {})
	unset(&h.Bytes, func(string, string, int64) {})
	unset(&h.Discarded, func(string, int64) {})
	unset(&h.Error, func(tarnv1.ReplicaErrorCode) {})
	unset(&h.Fence, func(string, error) {})
	unset(&h.Holds, func(string, map[string]int) {})
	unset(&h.StaleHolds, func(int) {})
	unset(&h.Pruned, func(string, int) {})
	unset(&h.PruneFailed, func(string, string) {})
	unset(&h.Retained, func(string, Retained) {})
	unset(&h.Diverged, func(string) {})
	return h
}

// fenced tells the end of a right to write. Each has one action that completes
// it; whatever fails on the way there is told, too.
func (w *Worker) fenced(k kind, err error) {
	if name := fencing(w.s.a, k, err != nil); name != "" {
		w.hooks.Fence(name, err)
	}
}

// fencing names what an action that ended was part of; "" for nothing to tell.
func fencing(a *tarnv1.Assignment, k kind, failed bool) string {
	part := k == doUnexport || k == doUnmount || k == doReadOnly || k == doFinal || k == doMark
	switch {
	case a.GetRole() == tarnv1.Role_ROLE_ACTIVE && (k == doReadOnly || failed && (k == doUnexport || k == doUnmount)):
		return "suspend"
	case a.GetRole() != tarnv1.Role_ROLE_FENCED || k != doMark && !(failed && part):
		return ""
	case a.GetSeal():
		return "seal"
	}
	return "demote"
}

// abort drops half a receive and tells how much that was.
func (w *Worker) abort(ctx context.Context, d *zfs.Dataset, reason string) error {
	info, known := w.cfg.Engine.DecodeToken(ctx, d.ResumeToken)
	if err := ignore(w.cfg.Engine.AbortReceive(ctx, d.Name), zfs.ErrNotResumable); err != nil {
		return err
	}
	if known == nil {
		w.hooks.Discarded(reason, info.Bytes)
	}
	return nil
}

// whyAborted is the reason for which the present role drops half a receive.
func (w *Worker) whyAborted() string {
	switch {
	case w.s.deadToken, w.s.following() && w.s.dead():
		return "dead_token"
	case w.s.a.GetRole() == tarnv1.Role_ROLE_DELETING, w.s.a.GetRole() == tarnv1.Role_ROLE_RELEASING:
		return "removed"
	}
	return "role"
}

// unset gives a hook that is nil something harmless.
func unset[F any](field *F, nothing F) {
	if reflect.ValueOf(*field).IsNil() {
		*field = nothing
	}
}
