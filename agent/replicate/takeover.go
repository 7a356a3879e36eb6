package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tarn/agent/stream"
	"tarn/zfs"
)

// lookAgain is how often an obstacle to taking a dataset over or giving it back is
// looked at: an operator removes it by hand, and nobody else tells the agent.
const lookAgain = 2 * time.Second

// comparePatience bounds a question to the source: nothing else goes on meanwhile.
const comparePatience = 15 * time.Second

// obstructed reports that only somebody with the dataset at hand can help.
func (w *Worker) obstructed() bool {
	if w.refusal == nil {
		return false
	}
	_, unfit := errors.AsType[unmanageable](w.refusal.err)
	_, renamed := errors.AsType[renamedAway](w.refusal.err)
	for _, byHand := range []error{errMissing, errForeign, errNotEncrypted, errEncrypted, errInherited} {
		unfit = unfit || errors.Is(w.refusal.err, byHand)
	}
	return unfit || renamed
}

// rest notes why nothing more can be done now, if it is for an obstacle.
func (w *Worker) rest(a action) {
	if a.kind == doIdle {
		w.refusal = nil
		return
	}
	w.refused(a)
	if w.obstructed() { // perhaps it has gone when the worker looks again
		w.stale, w.s.unrelated = true, false
	}
}

// manage does the actions of a takeover and of its reverse.
func (w *Worker) manage(ctx context.Context, a action) error {
	switch a.kind {
	case doCompare:
		return w.compareFormer(ctx)
	case doRecord:
		return w.record(ctx)
	case doFree:
		if err := w.cfg.Engine.Unmount(ctx, w.s.f.former.ds.Name, false); err != nil {
			return err
		}
		w.s.formerFree = true
		return nil
	case doTakeOver:
		return w.takeOver(ctx)
	case doPath:
		return w.keepPath(ctx)
	case doUntie:
		return w.untie(ctx)
	case doAdoptSnaps:
		return w.adoptSnapshots(ctx)
	case doGiveBack:
		return w.cfg.Engine.Rename(ctx, w.l.dataset(), w.s.a.GetManagedFrom())
	case doRestore:
		return w.restore(ctx, *w.s.f.ds)
	case doRestoreFormer:
		return w.restore(ctx, w.s.f.former.ds)
	}
	return fmt.Errorf("action %q: %w", a.kind, zfs.ErrUnsupported)
}

// compareFormer asks the source if it could go on from what the dataset has, before
// anything of it is touched: sending everything again is not what was asked for. The
// stream that the source begins is not read.
func (w *Worker) compareFormer(ctx context.Context) error {
	versions, err := w.cfg.Engine.Versions(ctx, w.s.f.former.ds.Name)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	have := (&facts{versions: versions}).have()
	if len(have) == 0 {
		w.s.unrelated = true
		return nil
	}
	a := w.s.a
	asked, cancel := context.WithTimeout(ctx, comparePatience)
	defer cancel()
	p, err := w.cfg.Source.Pull(asked, stream.Request{
		Source: a.GetSource(), Share: a.GetShareId(), Replica: a.GetReplicaId(), Epoch: a.GetEpoch(), Have: have,
	})
	if err == nil {
		p.Close()
	}
	var d *stream.DivergedError
	switch {
	case errors.Is(err, stream.ErrNoCommon):
		w.s.unrelated = true
	case err == nil, errors.As(err, &d): // what it has beyond that is put aside later
		w.s.compared, w.s.unrelated = true, false
	case asked.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("no answer within %s: %w", comparePatience, stream.ErrUnreachable)
	default:
		return err
	}
	return nil
}
