package chaos

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tarn/cmd/tarn/filetree"
	tarnv1 "tarn/proto/tarn/v1"
)

// well is nil when every share has an owner that serves it and copies that follow, and
// nothing is under way. A node that ended itself, as it does when it cannot write its
// log, is started again, as by the supervisor that it has elsewhere: it may end long
// after what it could not bear.
func (r *run) well(ctx context.Context) error {
	if err := r.StartAll(); err != nil {
		return err
	}
	if err := r.seen.look(ctx); err != nil {
		return err
	}
	status, err := r.api.Operator.GetStatus(ctx, &tarnv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	if status.GetHostsUp() != agents || len(status.GetRaftServers()) != servers {
		return fmt.Errorf("%d hosts are up, %d control nodes are members", status.GetHostsUp(), len(status.GetRaftServers()))
	}
	for _, s := range r.shares {
		if err := r.shareIsWell(s); err != nil {
			return fmt.Errorf("share %s: %w", s, err)
		}
	}
	return nil
}

func (r *run) shareIsWell(id string) error {
	s := r.seen.share(id)
	if s.GetFencing().GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_ACTIVE {
		return fmt.Errorf("fencing: %v", s.GetFencing())
	}
	owner, copies := r.seen.owner(id)
	if len(copies) != agents-1 || owner == nil {
		return fmt.Errorf("%d copies", len(copies))
	}
	for _, c := range append([]*tarnv1.Replica{owner}, copies...) {
		want := tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC
		if c == owner {
			want = tarnv1.ReplicaState_REPLICA_STATE_ACTIVE
		}
		o := c.GetObserved()
		if c.GetReplicaState() != want || c.GetStatus() != tarnv1.Status_STATUS_AVAILABLE || o.GetMountpoint() == "" || o.GetWritable() != (c == owner) ||
			o.GetError() != nil || len(c.GetExportLocations()) == 0 {
			return fmt.Errorf("replica on %s: %s, %s, mounted at %q, writable %t, lag %s, %d exports, error %v", hostOf(c), c.GetReplicaState(), c.GetStatus(),
				o.GetMountpoint(), o.GetWritable(), o.GetLag().AsDuration(), len(c.GetExportLocations()), o.GetError())
		}
	}
	return nil
}

// check holds what happened against what may happen. Clients rest meanwhile.
func (r *run) check(n int) {
	r.oracle.pause()
	defer r.oracle.resume()
	var errs []error
	for _, s := range r.shares {
		errs = append(errs, r.checkShare(s))
	}
	errs = append(errs, r.seen.failures()...)
	r.countMu.Lock()
	errs = append(errs, r.broken...)
	r.broken = nil
	r.countMu.Unlock()
	errs = append(errs, r.checkSnapshots(), r.sameEverywhere(), r.nothingLeft(), r.onlyLives(), r.tidy())
	if err := errors.Join(errs...); err != nil {
		r.t.Errorf("schedule %d: %v", n, err)
	}
}

// checkShare accounts for every confirmed write (I1, I5, I7, I11), and compares the
// copies with the owner byte for byte. What the API says of hosts may be a moment old,
// so that only what stays wrong counts.
func (r *run) checkShare(id string) error {
	var found, lost map[string]bool
	err := eventually(r.t.Context(), patience/2, func(ctx context.Context) (err error) {
		found, lost, err = r.account(ctx, id)
		return err
	})
	r.oracle.forget(lost)
	r.count("files confirmed and found", len(found))
	r.count("files confirmed, lost as declared and kept aside", len(lost))
	errs := []error{err}
	_, copies := r.seen.owner(id)
	for _, c := range copies {
		err := eventually(r.t.Context(), patience, func(ctx context.Context) error { return r.equal(ctx, id, c.GetId()) })
		if err != nil {
			errs = append(errs, fmt.Errorf("share %s, copy on %s: %w", id, hostOf(c), err))
		}
	}
	return errors.Join(errs...)
}

// account looks for every confirmed file of a share where its owner serves it.
func (r *run) account(ctx context.Context, id string) (found, lost map[string]bool, err error) {
	if err := r.seen.look(ctx); err != nil {
		return nil, nil, err
	}
	owner, _ := r.seen.owner(id)
	dir, err := r.seenAt(owner)
	if err != nil {
		return nil, nil, err
	}
	before, err := os.Stat(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("owner on %s: %w", hostOf(owner), err)
	}
	history := r.seen.history(id)
	var errs []error
	found, lost = map[string]bool{}, map[string]bool{}
	for _, w := range r.oracle.confirmed(id) {
		epoch, err := history.epochOf(w)
		errs = append(errs, err)
		missing := has(dir, w)
		if missing == nil {
			found[w.name] = true
			continue
		}
		lost[w.name] = true
		if err := errors.Join(history.declared(w, epoch), r.keptAside(w)); err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", missing, err))
		}
	}
	if after, err := os.Stat(dir); err != nil || !os.SameFile(before, after) {
		return nil, nil, errors.Join(fmt.Errorf("%s was mounted anew meanwhile", dir), err)
	}
	return found, lost, firstFew(errs)
}

// firstFew leaves as many errors as somebody may want to read.
func firstFew(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if more := len(errs) - 5; more > 0 {
		errs = append(errs[:5], fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}

// has looks for a file with its bytes. A snapshot may have caught it half written: then
// its writer was told so after the snapshot, and what counts is that snapshot's age.
func has(dir string, w written) error {
	data, err := os.ReadFile(filepath.Join(dir, w.name))
	if err != nil {
		return err
	}
	if sha256.Sum256(data) != w.sum {
		return fmt.Errorf("%s in %s has other bytes than were confirmed", w.name, dir)
	}
	return nil
}

// keptAside finds a lost file in what some host put aside (I7).
func (r *run) keptAside(w written) error {
	if r.onZFS() {
		return r.anythingAside(w)
	}
	heads, err := filepath.Glob(filepath.Join(r.Dir(), "nodes", "*", "pools", "*", "heads", "*"))
	if err != nil {
		return err
	}
	for _, dir := range heads {
		if has(dir, w) == nil {
			return nil
		}
	}
	return fmt.Errorf("I7: %s of share %s, confirmed by %s, is lost and in no divergent copy", w.name, w.share, w.replica)
}

// anythingAside is content if there is a divergent copy at all: those of real pools are
// not mounted.
func (r *run) anythingAside(w written) error {
	copies, err := r.api.Replicas.ListDivergentCopies(r.t.Context(), &tarnv1.ListDivergentCopiesRequest{ShareId: w.share})
	if err == nil && len(copies.GetDivergentCopies()) == 0 {
		err = fmt.Errorf("I7: %s of share %s, confirmed by %s, is lost and there is no divergent copy", w.name, w.share, w.replica)
	}
	return err
}

func (r *run) equal(ctx context.Context, share, replica string) error {
	if err := r.seen.look(ctx); err != nil {
		return err
	}
	owner, _ := r.seen.owner(share)
	from, err := r.seenAt(owner)
	if err != nil {
		return err
	}
	to, err := r.seenAt(r.seen.replica(replica))
	if err != nil {
		return err
	}
	diff, _, err := filetree.Difference(from, to)
	if err == nil && len(diff) > 0 {
		err = fmt.Errorf("it differs: %v", diff)
	}
	return err
}

// checkSnapshots looks whether users' snapshots that were available once are so still,
// or were declared lost (I4, I5).
func (r *run) checkSnapshots() error {
	answer, err := r.api.Snapshots.ListSnapshots(r.t.Context(), &tarnv1.ListSnapshotsRequest{})
	if err != nil {
		return err
	}
	now := map[string]*tarnv1.Snapshot{}
	for _, s := range answer.GetSnapshots() {
		now[s.GetId()] = s
	}
	r.seen.mu.Lock()
	defer r.seen.mu.Unlock()
	var errs []error
	for id, s := range r.seen.available {
		if r.discarded[id] {
			continue
		}
		is, ok := now[id]
		switch {
		case ok && is.GetStatus() == tarnv1.Status_STATUS_AVAILABLE && is.GetGuid() == s.GetGuid():
		case r.seen.lostSnapshot(s):
			r.count("snapshots declared lost", 1)
			delete(r.seen.available, id)
		default:
			errs = append(errs, fmt.Errorf("I4: snapshot %s of share %s was available with GUID %d, is %v", id, s.GetShareId(), s.GetGuid(), is))
		}
	}
	return errors.Join(errs...)
}

func (o *observer) lostSnapshot(s *tarnv1.Snapshot) bool {
	for _, f := range o.losses[s.GetShareId()] {
		if slices.ContainsFunc(f.GetLoss().GetLostSnapshots(), func(l *tarnv1.LostSnapshot) bool { return l.GetGuid() == s.GetGuid() }) {
			return true
		}
	}
	return false
}

// history is who owned a share when.
type history struct {
	share  string
	epochs []*tarnv1.LineageEntry // by epoch
	losses map[uint64]*tarnv1.Fencing
}

func (o *observer) history(share string) history {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := history{share: share, losses: map[uint64]*tarnv1.Fencing{}}
	for _, l := range o.owners[share] {
		h.epochs = append(h.epochs, l)
	}
	slices.SortFunc(h.epochs, func(a, b *tarnv1.LineageEntry) int { return int(a.GetEpoch()) - int(b.GetEpoch()) })
	for e, f := range o.losses[share] {
		h.losses[e] = f
	}
	return h
}

// epochOf is the first epoch in which the replica may have confirmed the write. There
// is one unless somebody wrote whose time was over or had not come (I1, I11).
func (h history) epochOf(w written) (uint64, error) {
	for i, l := range h.epochs {
		if l.GetOwnerReplicaId() != w.replica || w.acked.Before(l.GetAt().AsTime()) {
			continue
		}
		// The proof that the owner had stopped was in the log before its successor's epoch was asked for.
		if i+1 == len(h.epochs) || w.begun.Before(h.epochs[i+1].GetAt().AsTime()) {
			return l.GetEpoch(), nil
		}
	}
	return 0, fmt.Errorf("I1: %s of share %s was confirmed by %s between %s and %s, which owned no epoch then: %s", w.name, w.share, w.replica,
		w.begun.Format(time.StampMicro), w.acked.Format(time.StampMicro), h)
}

func (h history) String() string {
	text := ""
	for _, l := range h.epochs {
		text += fmt.Sprintf(" [%d %s %s]", l.GetEpoch(), l.GetOwnerReplicaId(), l.GetAt().AsTime().Local().Format(time.StampMicro))
	}
	return text
}

// declared finds the forced failover that says that the file is lost (I5).
func (h history) declared(w written, epoch uint64) error {
	for e, f := range h.losses {
		loss := f.GetLoss()
		if e <= epoch || f.GetMode() != tarnv1.PromotionMode_PROMOTION_MODE_FORCED || loss == nil || loss.GetEpochTo() != e {
			continue
		}
		if loss.GetKeptCreatedAt().AsTime().Before(w.acked) {
			return nil
		}
	}
	return fmt.Errorf("I5: %s of share %s, confirmed by %s under epoch %d at %s, is lost and no failover says so: %s, losses %v", w.name, w.share, w.replica, epoch,
		w.acked.Format(time.StampMicro), h, h.losses)
}
