package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/cmd/tarn/dev"
	tarnv1 "tarn/proto/tarn/v1"
)

const (
	servers = 3
	agents  = 3
	shares  = 3
)

// run is one arena with shares, clients that write to them, and somebody who looks.
type run struct {
	*arena
	seen   *observer
	oracle *oracle
	shares []string

	// discarded snapshots are those that somebody deleted; guarded by seen.mu.
	discarded map[string]bool
	// bases counts what datasets a host's pools have beside replicas.
	bases map[string]int

	countMu sync.Mutex
	counts  map[string]int
	broken  []error
}

// Random schedules of faults, one after the other on one cluster: no promise is broken
// during any, and the cluster becomes whole by itself after each.
func TestChaos(t *testing.T) {
	r := newRun(t)
	t.Logf("repeat with: make chaos SEED=%d", suite.seed)
	begun := time.Now()
	sizes, err := r.sizes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := suite.first
	for ; n < suite.first+suite.schedules && time.Since(begun) < suite.time && !t.Failed(); n++ {
		r.schedule(n)
	}
	t.Logf("%d schedules in %s", n-suite.first, time.Since(begun).Round(time.Second))
	r.summary()
	if err := r.grown(sizes); err != nil && !t.Failed() {
		t.Error(err)
	}
}

func newRun(t *testing.T) *run {
	t.Helper()
	r := &run{arena: newArena(t, dev.Options{Servers: servers, Agents: agents, Zones: agents}), counts: map[string]int{}, discarded: map[string]bool{}, bases: map[string]int{}}
	r.seen = newObserver(r.arena)
	r.oracle = &oracle{seen: r.seen, known: map[string]place{}}
	r.createShares()
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { stop(); all.Wait() })
	all.Go(func() { r.seen.run(ctx) })
	if err := eventually(t.Context(), 2*time.Minute, r.well); err != nil {
		t.Fatal("nothing was broken yet, and still: ", err)
	}
	r.shrinkPools()
	for _, n := range r.names(dev.Agent) {
		r.bases[n] = len(r.trees(n)) - len(r.shares)
	}
	replicas := map[string][]string{}
	for _, s := range r.shares {
		owner, copies := r.seen.owner(s)
		replicas[s] = append(replicas[s], owner.GetId())
		for _, c := range copies {
			replicas[s] = append(replicas[s], c.GetId())
		}
	}
	all.Go(func() { r.oracle.run(ctx, replicas) })
	return r
}

func (r *run) createShares() {
	r.t.Helper()
	ctx := r.t.Context()
	_, err := r.api.ShareTypes.CreateShareType(ctx, &tarnv1.CreateShareTypeRequest{
		Name: "gold",
		ExtraSpecs: map[string]string{
			"driver_handles_share_servers": "false", "replication_type": "readable", "tarn:rpo": "10s", "tarn:squash": "none",
			"snapshot_support": "true",
		},
	})
	for i := range shares {
		var s *tarnv1.Share
		if err == nil {
			s, err = r.api.Shares.CreateShare(ctx, &tarnv1.CreateShareRequest{
				Name: fmt.Sprintf("share%d", i), ShareType: "gold", SizeGib: 1, AvailabilityZone: fmt.Sprintf("az%d", i%agents+1),
			})
		}
		if err == nil {
			r.shares = append(r.shares, s.GetId())
			_, err = r.api.AccessRules.AllowAccess(ctx, &tarnv1.AllowAccessRequest{ShareId: s.GetId(), AccessTo: network + ".1"})
		}
	}
	if err == nil {
		err = eventually(ctx, time.Minute, r.copyAll)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// copyAll gives every share a replica on every agent.
func (r *run) copyAll(ctx context.Context) error {
	answer, err := r.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{})
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, replica := range answer.GetReplicas() {
		has[replica.GetShareId()+replica.GetAvailabilityZone()] = true
	}
	var errs []error
	for _, s := range r.shares {
		for i := range agents {
			zone := fmt.Sprintf("az%d", i+1)
			if has[s+zone] {
				continue
			}
			_, err := r.api.Replicas.CreateReplica(ctx, &tarnv1.CreateReplicaRequest{ShareId: s, AvailabilityZone: zone})
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// schedule runs one schedule, ends its faults, and checks everything.
func (r *run) schedule(n int) {
	steps := plan(suite.seed, n, len(r.shares))
	r.t.Logf("schedule %d: %s", n, describe(steps))
	begun := time.Now()
	ctx, cancel := context.WithTimeout(r.t.Context(), longest+deedPatience)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range steps {
		all.Go(func() { r.perform(ctx, s) })
	}
	all.Wait()
	broke := time.Since(begun)
	if err := r.mend(); err != nil {
		r.t.Fatal(err)
	}
	healed := time.Now()
	if err := eventually(r.t.Context(), patience, r.well); err != nil {
		r.t.Errorf("schedule %d: I12: the cluster does not become whole: %v", n, err)
		return
	}
	whole := time.Since(healed)
	r.check(n)
	r.t.Logf("schedule %d: faults for %.1fs, whole %.1fs later, checked in %.1fs", n, broke.Seconds(), whole.Seconds(), (time.Since(healed) - whole).Seconds())
	r.count("schedules", 1)
}

// patience is how long a healed cluster may take, on a machine that does other things,
// too.
const patience = 90 * time.Second

// perform waits until a step is due, does it, and takes it back after its time.
func (r *run) perform(ctx context.Context, s step) {
	if !wait(ctx, s.at) {
		return
	}
	if s.lasts == 0 {
		err := r.do(ctx, s)
		if err != nil {
			r.t.Logf("  %s: %v", s, shorten(err))
			r.count(s.kind+" refused", 1)
			return
		}
		r.count(s.kind, 1)
		return
	}
	back, err := r.begin(ctx, s)
	switch {
	case errors.Is(err, errNobody):
		r.count(s.kind+" missed", 1)
	case err != nil:
		r.report(fmt.Errorf("fault %s: %w", s, err))
	default:
		r.count(s.kind, 1)
	}
	if back == nil {
		return
	}
	wait(ctx, s.lasts)
	if err := back(); err != nil {
		r.report(fmt.Errorf("end fault %s: %w", s, err))
	}
}

// mend makes sure that nothing is broken by us any more.
func (r *run) mend() error {
	r.healNetwork()
	var pids []int
	for pid, p := range processes() {
		if p.state == 'T' {
			pids = append(pids, pid)
		}
	}
	return errors.Join(goOn(pids), r.StartAll())
}

// report keeps what was broken; the test's own goroutine says it.
func (r *run) report(err error) {
	r.countMu.Lock()
	defer r.countMu.Unlock()
	r.broken = append(r.broken, err)
}

func (r *run) count(what string, n int) {
	r.countMu.Lock()
	defer r.countMu.Unlock()
	r.counts[what] += n
}

// summary prints what was done, and how often.
func (r *run) summary() {
	r.countMu.Lock()
	defer r.countMu.Unlock()
	names := slices.Collect(maps.Keys(r.counts))
	sort.Strings(names)
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "\n%6d  %s", r.counts[n], n)
	}
	c := r.net.Counts()
	fmt.Fprintf(&b, "\npackets: %d passed, %d cut, %d lost, %d late, %d congested", c.Passed, c.Cut, c.Lost, c.Delayed, c.Congested)
	r.oracle.mu.Lock()
	fmt.Fprintf(&b, "\nclients: %d attempts, %d refused or unanswered", r.oracle.attempts, r.oracle.refused)
	r.oracle.mu.Unlock()
	r.t.Logf("faults, deeds and what became of them:%s", b.String())
}

func shorten(err error) string {
	text := err.Error()
	return text[:min(len(text), 160)]
}
