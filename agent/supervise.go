package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"google.golang.org/protobuf/proto"

	"tarn/agent/replicate"
	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
)

// workers keeps one replicate.Worker running per assigned replica. Safe for
// concurrent use; apply is for one caller.
type workers struct {
	// make builds the worker of an assignment; it starts nothing.
	make func(*tarnv1.Assignment) (*replicate.Worker, error)
	// refused hears of assignments that no worker can be made for.
	refused func(*tarnv1.Assignment, error)
	// ended counts workers that stopped by themselves.
	ended func(err error)
	log   *slog.Logger

	mu    sync.Mutex
	base  context.Context  // of begin
	units map[string]*unit // by replica
	group sync.WaitGroup
}

// unit is one replica's supervised life.
type unit struct {
	mu         sync.Mutex
	assignment *tarnv1.Assignment
	worker     *replicate.Worker // nil between two lives
	restart    context.CancelFunc

	stop context.CancelFunc
	done chan struct{}
}

// begin lets apply start workers that live until ctx ends.
func (w *workers) begin(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.base = ctx
}

// wait returns when all workers have ended, which they do with the context of
// begin. Nobody may call apply any more.
func (w *workers) wait() {
	w.group.Wait()
}

// apply starts, informs and stops workers so that exactly the assigned ones run,
// and returns the assignments that ended once their workers have.
func (w *workers) apply(assignments []*tarnv1.Assignment) []*tarnv1.Assignment {
	w.mu.Lock()
	pools := make(map[string]string, len(assignments))
	for _, a := range assignments {
		pools[a.GetReplicaId()] = a.GetPool()
	}
	var leaving []*unit
	for id, u := range w.units {
		// A replica that moved to another pool of this host is another dataset.
		if pool, wanted := pools[id]; !wanted || pool != u.current().GetPool() {
			leaving = append(leaving, u)
			delete(w.units, id)
			u.stop()
		}
	}
	for _, a := range assignments {
		if u, ok := w.units[a.GetReplicaId()]; ok {
			u.assign(a)
		} else {
			w.units[a.GetReplicaId()] = w.launch(a)
		}
	}
	w.mu.Unlock()
	return await(leaving)
}

func await(leaving []*unit) []*tarnv1.Assignment {
	var gone []*tarnv1.Assignment
	for _, u := range leaving {
		<-u.done
		gone = append(gone, u.current())
	}
	return gone
}

// launch starts the life of one replica. The caller has the lock.
func (w *workers) launch(a *tarnv1.Assignment) *unit {
	ctx, stop := context.WithCancel(w.base)
	u := &unit{assignment: proto.CloneOf(a), stop: stop, done: make(chan struct{}), restart: func() {}}
	w.group.Go(func() {
		defer close(u.done)
		defer stop()
		w.live(ctx, u)
	})
	return u
}

// live runs one worker after another until ctx ends. A worker ends early when it
// fails or is asked to look at everything anew; a panic ends the agent.
func (w *workers) live(ctx context.Context, u *unit) {
	for failures := 0; ctx.Err() == nil; {
		worker, err := w.make(u.current())
		if err != nil {
			w.refused(u.current(), err)
			w.log.Error("assignment cannot be followed", "replica", u.current().GetReplicaId(), "err", err)
			if backoff(ctx, failures) != nil {
				return
			}
			failures++
			continue
		}
		restarted, cancel := context.WithCancel(ctx)
		u.enter(worker, cancel)
		err = worker.Run(restarted)
		u.leave()
		asked := restarted.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return
		}
		if !asked {
			w.ended(err)
			w.log.Error("worker ended; starting it again", "replica", u.current().GetReplicaId(), "err", err)
			_ = backoff(ctx, failures)
			failures++
		}
	}
}

func (u *unit) assign(a *tarnv1.Assignment) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if proto.Equal(u.assignment, a) {
		return
	}
	u.assignment = proto.CloneOf(a)
	if u.worker != nil {
		u.worker.Assign(u.assignment)
	}
}

func (u *unit) current() *tarnv1.Assignment {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.assignment
}

func (u *unit) enter(worker *replicate.Worker, restart context.CancelFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.worker, u.restart = worker, restart
	worker.Assign(u.assignment)
}

func (u *unit) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.worker, u.restart = nil, func() {}
}

// recheck lets the worker of a dataset start anew, with nothing remembered:
// somebody else changed the dataset.
func (w *workers) recheck(dataset string) {
	for _, u := range w.all() {
		u.mu.Lock()
		if u.worker != nil && u.worker.Dataset() == dataset {
			u.restart()
		}
		u.mu.Unlock()
	}
}

// recheckPool does so for all datasets of a pool.
func (w *workers) recheckPool(pool string) {
	for _, u := range w.all() {
		u.mu.Lock()
		if u.worker != nil && u.assignment.GetPool() == pool {
			u.restart()
		}
		u.mu.Unlock()
	}
}

func (w *workers) all() []*unit {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]*unit, 0, len(w.units))
	for _, u := range w.units {
		all = append(all, u)
	}
	return all
}

// errNotHere is told to a peer that asks for a replica that this host lacks.
var errNotHere = errors.New("replica is not on this host")

// authorize says what another host may pull.
func (w *workers) authorize(peerHostID, shareID, replicaID string) (stream.Grant, error) {
	w.mu.Lock()
	u := w.units[replicaID]
	w.mu.Unlock()
	if u != nil {
		u.mu.Lock()
		worker, a := u.worker, u.assignment
		u.mu.Unlock()
		if worker != nil && a.GetShareId() == shareID {
			return worker.Grant(peerHostID)
		}
	}
	return stream.Grant{}, fmt.Errorf("share %s, replica %s: %w", shareID, replicaID, errNotHere)
}

// report is what the worker of a replica says of it now; nil if none runs, or none
// has looked yet.
func (w *workers) report(replicaID string) *tarnv1.ReplicaReport {
	worker := w.worker(replicaID)
	if worker == nil {
		return nil
	}
	return worker.Report()
}

// worker of a replica; nil if none runs.
func (w *workers) worker(replicaID string) *replicate.Worker {
	w.mu.Lock()
	u := w.units[replicaID]
	w.mu.Unlock()
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.worker
}

// assignment of one replica; nil if no worker follows it.
func (w *workers) assignment(replicaID string) *tarnv1.Assignment {
	w.mu.Lock()
	u := w.units[replicaID]
	w.mu.Unlock()
	if u == nil {
		return nil
	}
	return u.current()
}

// assignments are those that workers follow.
func (w *workers) assignments() []*tarnv1.Assignment {
	var all []*tarnv1.Assignment
	for _, u := range w.all() {
		all = append(all, u.current())
	}
	return all
}
