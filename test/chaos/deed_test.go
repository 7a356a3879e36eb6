package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	tarnv1 "tarn/proto/tarn/v1"
)

// deedPatience is how long the API may take to answer in the middle of faults.
const deedPatience = 4 * time.Second

// do does what users and operators do. What the API refuses is an error, and no fault.
func (r *run) do(ctx context.Context, s step) error {
	ctx, cancel := context.WithTimeout(ctx, deedPatience)
	defer cancel()
	number := 0
	if _, err := fmt.Sscanf(strings.TrimLeft(s.on, "abcdefghijklmnopqrstuvwxyz"), "%d", &number); err != nil {
		number = int(s.much * float64(len(r.shares)))
	}
	share := r.shares[number%len(r.shares)]
	_, copies := r.seen.owner(share)
	if len(copies) == 0 {
		return errNobody
	}
	slices.SortFunc(copies, byHost)
	target := copies[int(s.much*float64(len(copies)))]
	switch s.kind {
	case "promote":
		_, err := r.promote(ctx, target, uuid.NewString(), s.much < 0.5)
		return err
	case "promote-two":
		return r.promoteTwo(ctx, copies)
	case "promote-again":
		return r.promoteAgain(ctx, target)
	case "promote-and-cancel":
		return r.promoteAndCancel(ctx, target)
	case "failover":
		return r.failover(ctx, target)
	case "snapshot":
		return r.snapshot(ctx, share)
	case "delete-snapshot":
		return r.deleteSnapshot(ctx, share)
	case "resync":
		_, err := r.api.Replicas.ResyncReplica(ctx, &tarnv1.GetRequest{Id: target.GetId()})
		return err
	}
	return fmt.Errorf("no such deed: %s", s.kind)
}

func byHost(a, b *tarnv1.Replica) int { return strings.Compare(a.GetHost(), b.GetHost()) }

func (r *run) promote(ctx context.Context, target *tarnv1.Replica, op string, patient bool) (*tarnv1.PromoteReplicaResponse, error) {
	req := &tarnv1.PromoteReplicaRequest{Id: target.GetId(), OpId: op}
	if !patient {
		req.QuiesceWaitTime = durationpb.New(3 * time.Second)
	}
	return r.api.Replicas.PromoteReplica(ctx, req)
}

// promoteTwo asks for two owners at once: at most one of them may be started.
func (r *run) promoteTwo(ctx context.Context, copies []*tarnv1.Replica) error {
	if len(copies) < 2 {
		return errNobody
	}
	var both sync.WaitGroup
	var errs [2]error
	var started [2]bool
	for i := range 2 {
		both.Go(func() {
			var answer *tarnv1.PromoteReplicaResponse
			answer, errs[i] = r.promote(ctx, copies[i], uuid.NewString(), true)
			started[i] = answer.GetStarted()
		})
	}
	both.Wait()
	if !started[0] && !started[1] {
		return errors.Join(errs[0], errs[1])
	}
	return nil
}

// promoteAgain repeats a promotion with its number: the same one is answered (I10).
func (r *run) promoteAgain(ctx context.Context, target *tarnv1.Replica) error {
	op := uuid.NewString()
	first, err := r.promote(ctx, target, op, true)
	if err != nil {
		return err
	}
	second, err := r.promote(ctx, target, op, true)
	if err != nil {
		return err
	}
	if first.GetStarted() && second.GetOpId() != op {
		r.report(fmt.Errorf("I10: promotion %s was answered with %s when it was repeated", op, second.GetOpId()))
	}
	return nil
}

func (r *run) promoteAndCancel(ctx context.Context, target *tarnv1.Replica) error {
	op := uuid.NewString()
	if _, err := r.promote(ctx, target, op, true); err != nil {
		return err
	}
	_, err := r.api.Replicas.CancelPromotion(ctx, &tarnv1.CancelPromotionRequest{ShareId: target.GetShareId(), OpId: op})
	return err
}

func (r *run) failover(ctx context.Context, target *tarnv1.Replica) error {
	_, err := r.api.Replicas.PromoteReplica(ctx, &tarnv1.PromoteReplicaRequest{
		Id: target.GetId(), OpId: uuid.NewString(), Force: true, Consent: &tarnv1.Consent{Reason: "chaos"},
	})
	return err
}

// snapshot asks twice with one id: there is to be one (I10).
func (r *run) snapshot(ctx context.Context, share string) error {
	id := uuid.NewString()
	req := &tarnv1.CreateSnapshotRequest{Id: id, ShareId: share, Name: "chaos-" + id[:8]}
	if _, err := r.api.Snapshots.CreateSnapshot(ctx, req); err != nil {
		return err
	}
	_, err := r.api.Snapshots.CreateSnapshot(ctx, req)
	return err
}

func (r *run) deleteSnapshot(ctx context.Context, share string) error {
	answer, err := r.api.Snapshots.ListSnapshots(ctx, &tarnv1.ListSnapshotsRequest{})
	if err != nil {
		return err
	}
	for _, s := range answer.GetSnapshots() {
		if s.GetShareId() == share && !s.GetDeleting() {
			return r.discard(ctx, s.GetId())
		}
	}
	return errNobody
}

// discard deletes a snapshot, and no longer expects it anywhere.
func (r *run) discard(ctx context.Context, id string) error {
	r.seen.mu.Lock()
	r.discarded[id] = true
	r.seen.mu.Unlock()
	_, err := r.api.Snapshots.DeleteSnapshot(ctx, &tarnv1.DeleteSnapshotRequest{Id: id})
	return err
}
