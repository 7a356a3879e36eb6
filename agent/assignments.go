package agent

import (
	"context"
	"math/rand/v2"
	"path"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/agent/lease"
	tarnv1 "tarn/proto/tarn/v1"
)

const (
	// pollWait is how long an assignments poll hangs when nothing changes; half of it by chance.
	pollWait = 30 * time.Second
	// pollGrace is what the answer may take beyond that.
	pollGrace = 10 * time.Second
	// stalePause follows an answer older than what is known: that node lags behind.
	stalePause = 200 * time.Millisecond
)

// follow polls the assignments until ctx ends. Any control-plane node answers;
// one that is behind is not believed.
func (a *Agent) follow(ctx context.Context) error {
	for failures := 0; ; {
		a.pulses.turn(loopFollow)
		err := a.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failures = 0
		case connect.CodeOf(err) == connect.CodeNotFound:
			a.log.Warn("control plane does not know this host; registering again", "err", err)
			if err := a.enlist(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		default:
			a.log.Warn("assignments could not be read", "err", err)
			if backoff(ctx, failures) != nil {
				return nil
			}
			failures++
		}
	}
}

// poll asks once and acts on the answer.
func (a *Agent) poll(ctx context.Context) error {
	hang := pollWait/2 + rand.N(pollWait/2)
	known := a.revision.Load()
	resp, err := call(ctx, a, "Assignments", hang+pollGrace, a.control.Assignments, &tarnv1.AssignmentsRequest{
		HostId: a.hostID, AfterRevision: known, MaxWait: durationpb.New(hang),
	})
	if err != nil {
		return err
	}
	if resp.GetUnchanged() || resp.GetRevision() < known {
		if resp.GetRevision() < known {
			return wait(ctx, stalePause)
		}
		return nil
	}
	a.pulses.rest(loopFollow) // workers that leave wait for their pools
	a.assign(resp)
	return nil
}

// assign makes what runs here equal to the whole set of assignments. Rights that
// are over end before anything else changes.
func (a *Agent) assign(resp *tarnv1.AssignmentsResponse) {
	a.log.Debug("assignments", "revision", resp.GetRevision(), "replicas", len(resp.GetAssignments()))
	a.keeper.Want(a.wanted(resp.GetAssignments()))
	a.reports.expect(resp.GetRevision(), resp.GetAssignments())
	gone := a.workers.apply(resp.GetAssignments())
	a.purges.want(resp.GetPurges())
	a.revision.Store(resp.GetRevision())
	for _, left := range gone {
		a.reports.forget(left.GetReplicaId())
		a.counters.Forget(left.GetShareId(), left.GetReplicaId())
	}
	a.heardAssignments.Do(func() { close(a.assigned) })
	a.sweepSoon()
}

// wanted are the shares that this host is to own.
func (a *Agent) wanted(assignments []*tarnv1.Assignment) []lease.Share {
	var shares []lease.Share
	for _, as := range assignments {
		if _, here := a.pool(as.GetPool()); here && as.GetRole() == tarnv1.Role_ROLE_ACTIVE {
			shares = append(shares, lease.Share{
				ShareID: as.GetShareId(), ReplicaID: as.GetReplicaId(), Epoch: as.GetEpoch(), Target: a.target(as),
			})
		}
	}
	return shares
}

// target is what has to be fenced when the right to write as ends.
func (a *Agent) target(as *tarnv1.Assignment) lease.Target {
	t := lease.Target{Dataset: a.root(as.GetPool()) + "/" + as.GetReplicaId()}
	if a.cfg.Storage == StorageDir {
		pool, _ := a.pool(as.GetPool())
		t.PoolDir = filepath.Clean(pool.Path)
	} else {
		t.Engine = a.cfg.Storage
	}
	return t
}

// assignedDatasets are those that a worker takes care of.
func (a *Agent) assignedDatasets() map[string]bool {
	names := map[string]bool{}
	for _, as := range a.workers.assignments() {
		names[a.target(as).Dataset] = true
	}
	return names
}

// isAssigned reports that a worker takes care of a dataset at this moment.
func (a *Agent) isAssigned(dataset string) bool {
	as := a.workers.assignment(path.Base(dataset))
	return as != nil && a.target(as).Dataset == dataset
}
