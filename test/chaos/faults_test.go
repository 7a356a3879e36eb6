package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	tarnv1 "tarn/proto/tarn/v1"
)

// leaseTime is how long a host may serve after the last request that was granted, in
// clusters of package dev.
const leaseTime = 3 * time.Second

// directed is one fault of docs/faults.md, by itself.
type directed struct {
	name  string
	steps []step
	// silenced: the first share's owner may confirm nothing once its lease must have ended.
	silenced bool
	// steady: no share changes its owner.
	steady bool
	// first happens before the steps, and may do anything.
	first func(*run) error
}

func directedFaults() []directed {
	at := func(kind, on string, from, lasts float64) step {
		s := func(f float64) time.Duration { return time.Duration(f * float64(time.Second)) }
		return step{kind: kind, on: on, at: s(from), lasts: s(lasts), much: 0.6}
	}
	cutPair := at("cut-pair", "owner0", 0, 5)
	cutPair.other = "copy0"
	return []directed{
		{name: "agent-killed", steps: []step{at("kill", "owner0", 0, 6), at("failover", "copy0", 0.5, 0)}, silenced: true},
		{name: "agent-stopped", steps: []step{at("stop", "owner0", 0, 8), at("failover", "copy0", 0.5, 0)}, silenced: true},
		{name: "leader-stopped", steps: []step{at("stop", "leader", 0, 6), at("promote", "copy1", 1, 0)}},
		{name: "dead-man-stopped", steps: []step{at("stop-dead-man", "owner0", 0, 4)}},
		{name: "host-rebooted-without-network", steps: []step{
			at("reboot", "owner0", 0, 2), at("isolate", "owner0", 0, 7), at("failover", "copy0", 0.5, 0)}, silenced: true},
		{name: "minority-of-control-cut-off", steps: []step{at("isolate", "leader", 0, 5), at("snapshot", "owner1", 3, 0)}, steady: true},
		{name: "no-majority-of-control", steps: []step{at("no-majority", "", 0, 7)}, silenced: true, steady: true},
		{name: "owner-cut-from-control", steps: []step{at("cut-from-control", "owner0", 0, 8), at("failover", "copy0", 0.5, 0)}, silenced: true},
		{name: "replies-to-owner-dropped", steps: []step{at("cut-replies-of-control", "owner0", 0, 6)}, silenced: true, steady: true},
		{name: "leader-hears-nobody", steps: []step{at("isolate-in", "leader", 0, 6)}, steady: true},
		{name: "source-and-target-cut", steps: []step{cutPair}, steady: true},
		{name: "two-promotions-at-once", steps: []step{at("promote-two", "", 0, 0), at("promote-again", "copy2", 0, 0)}},
		{name: "pool-of-copy-full", steps: []step{at("full-pool", "copy0", 0, 5)}, steady: true},
		{name: "pool-of-owner-full", steps: []step{at("full-pool", "owner0", 0, 5), at("snapshot", "owner0", 1, 0)}, steady: true},
		{name: "disk-of-leader-full", steps: []step{at("full-disk", "leader", 0, 5), at("snapshot", "owner1", 2, 0)}},
		{name: "bad-network", steps: []step{at("loss", "", 0, 6), at("delay", "", 0, 6), at("slow-link", "copy0", 0, 6)}},
		{name: "host-frozen", steps: []step{at("freeze", "owner0", 0, 8), at("failover", "copy0", 0.5, 0)}, silenced: true},
		{name: "leader-dies-at-each-step-of-a-promotion", first: func(r *run) error { return r.leaderDiesAtEachStep(false) }},
		{name: "leader-dies-at-each-step-of-a-failover", first: func(r *run) error { return r.leaderDiesAtEachStep(true) }},
		{name: "three-failovers-in-a-row", first: (*run).threeFailovers},
		{name: "leader-killed-every-5s", first: (*run).leadersDieOften},
	}
}

// Each fault by itself, with what is expected of it beside the promises that hold always.
func TestFaults(t *testing.T) {
	r := newRun(t)
	for _, d := range directedFaults() {
		t.Run(d.name, func(t *testing.T) { r.in(t).direct(d) })
	}
}

// in is the same run with what fails reported to a subtest.
func (r *run) in(t *testing.T) *run {
	a := &arena{Cluster: r.Cluster, t: t, net: r.net, api: r.api, boots: r.boots, cuts: r.cuts}
	out := &run{arena: a, seen: r.seen, oracle: r.oracle, shares: r.shares, discarded: r.discarded, bases: r.bases, counts: map[string]int{}}
	return out
}

func (r *run) direct(d directed) {
	r.t.Helper()
	if err := eventually(r.t.Context(), patience, r.well); err != nil {
		r.t.Fatal("before the fault: ", err)
	}
	owner, _ := r.seen.owner(r.shares[0])
	epochs := r.epochs()
	if d.first != nil {
		if err := d.first(r); err != nil {
			r.t.Error(err)
		}
	}
	begun := time.Now()
	var ended time.Time
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range d.steps {
		all.Go(func() { r.perform(ctx, s) })
	}
	all.Wait()
	ended = time.Now()
	if err := r.mend(); err != nil {
		r.t.Fatal(err)
	}
	if err := eventually(r.t.Context(), patience, r.well); err != nil {
		r.t.Fatal("I12: the cluster does not become whole: ", err)
	}
	for what, n := range r.counts {
		r.t.Logf("%d %s", n, what)
	}
	if d.silenced {
		if err := r.silence(owner.GetId(), begun.Add(leaseTime+time.Second), ended.Add(-300*time.Millisecond)); err != nil {
			r.t.Error(err)
		}
	}
	if now := r.epochs(); d.steady && now != epochs {
		r.t.Errorf("owners changed: epochs were%s, are%s", epochs, now)
	}
	r.check(0)
}

func (r *run) epochs() string {
	text := ""
	for _, s := range r.shares {
		text += fmt.Sprintf(" %d", r.seen.share(s).GetFencing().GetEpoch())
	}
	return text
}

// silence looks for writes that a replica confirmed when it must not.
func (r *run) silence(replica string, from, to time.Time) error {
	r.oracle.mu.Lock()
	defer r.oracle.mu.Unlock()
	for _, w := range r.oracle.entries {
		if w.replica == replica && w.begun.After(from) && w.acked.Before(to) {
			return fmt.Errorf("%s was confirmed between %s and %s, after the end of every lease at %s", w.name,
				w.begun.Format(time.StampMicro), w.acked.Format(time.StampMicro), from.Format(time.StampMicro))
		}
	}
	return nil
}

// leaderDiesAtEachStep kills whoever leads whenever a promotion has got one step on.
func (r *run) leaderDiesAtEachStep(force bool) error {
	share := r.shares[1]
	_, copies := r.seen.owner(share)
	req := &tarnv1.PromoteReplicaRequest{Id: copies[0].GetId(), OpId: uuid.NewString(), Force: force}
	if force {
		req.Consent = &tarnv1.Consent{Reason: "chaos"}
	}
	if _, err := r.api.Replicas.PromoteReplica(r.t.Context(), req); err != nil {
		return err
	}
	var last *tarnv1.Fencing
	kills := 0
	err := eventually(r.t.Context(), patience, func(ctx context.Context) error {
		s, err := r.api.Shares.GetShare(ctx, &tarnv1.GetRequest{Id: share})
		if err != nil {
			return err
		}
		f := s.GetFencing()
		if last != nil && proto.Equal(f, last) {
			return fmt.Errorf("%d leaders were killed; it is %v", kills, f)
		}
		last = f
		leader, err := r.leader(ctx)
		if err != nil {
			return err
		}
		back, err := r.kill(ctx, leader)
		if err == nil {
			kills++
			err = back()
		}
		if p := f.GetPreparing(); err == nil && (f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING || p != nil && !p.GetCancelled()) {
			err = errors.New("it goes on")
		}
		return err
	})
	r.t.Logf("%d leaders died during the promotion", kills)
	if err == nil && last.GetOwnerReplicaId() != copies[0].GetId() {
		err = fmt.Errorf("the promotion ended as %v", last)
	}
	return err
}

// threeFailovers moves a share from A to B to C by force, with A away all the time and B
// away the second time: what A and B had alone is preserved twice.
func (r *run) threeFailovers() error {
	share := r.shares[2]
	var away []undo
	for range 2 {
		owner, copies := r.seen.owner(share)
		next := copies[0]
		if !r.up(next) {
			next = copies[1]
		}
		back, err := r.reboot(r.t.Context(), hostOf(owner))
		if err != nil {
			return err
		}
		away = append(away, back)
		if err := r.failover(r.t.Context(), next); err != nil {
			return err
		}
		err = eventually(r.t.Context(), patience, func(ctx context.Context) error {
			if err := r.seen.look(ctx); err != nil {
				return err
			}
			now, _ := r.seen.owner(share)
			if now.GetId() != next.GetId() || !now.GetObserved().GetWritable() {
				return fmt.Errorf("the owner is on %s: %v", hostOf(now), r.seen.share(share).GetFencing())
			}
			return r.written(now.GetId(), time.Now().Add(-time.Second))
		})
		if err != nil {
			return err
		}
	}
	return errors.Join(away[0](), away[1]())
}

func (r *run) up(replica *tarnv1.Replica) bool {
	state, _ := r.State(hostOf(replica))
	return state == "running"
}

// written is nil when a replica has confirmed a write since then.
func (r *run) written(replica string, since time.Time) error {
	r.oracle.mu.Lock()
	defer r.oracle.mu.Unlock()
	for i := len(r.oracle.entries) - 1; i >= 0; i-- {
		if w := r.oracle.entries[i]; w.replica == replica && w.acked.After(since) {
			return nil
		}
	}
	return errors.New("nobody writes to it yet")
}

// leadersDieOften has a new leader every 5 s, while clients write.
func (r *run) leadersDieOften() error {
	r.seen.mu.Lock()
	asked, answered := r.seen.asked, r.seen.answered
	r.seen.mu.Unlock()
	for range 6 {
		leader, err := r.member(r.t.Context(), roleLeader, 0)
		if err != nil {
			return err
		}
		back, err := r.kill(r.t.Context(), leader)
		if err != nil {
			return err
		}
		wait(r.t.Context(), 1500*time.Millisecond)
		if err := back(); err != nil {
			return err
		}
		wait(r.t.Context(), 3500*time.Millisecond)
	}
	r.seen.mu.Lock()
	defer r.seen.mu.Unlock()
	r.t.Logf("%d of %d questions to the API were answered at once", r.seen.answered-answered, r.seen.asked-asked)
	return nil
}
