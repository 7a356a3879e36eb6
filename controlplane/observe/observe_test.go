package observe

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	tarnv1 "tarn/proto/tarn/v1"
)

// epoch is any moment: the package reads no clock.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

func newState(t *testing.T) *State {
	t.Helper()
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	s.Lead(at(0))
	return s
}

func report(session string, seq uint64, full bool, replicas ...string) *tarnv1.ReportRequest {
	r := &tarnv1.ReportRequest{HostId: "h", SessionId: session, Sequence: seq, Full: full}
	for _, id := range replicas {
		r.Replicas = append(r.Replicas, &tarnv1.ReplicaReport{ReplicaId: id, Lag: durationpb.New(time.Second)})
	}
	return r
}

func TestReportsMergeInOrder(t *testing.T) {
	s := newState(t)
	steps := []struct {
		req      *tarnv1.ReportRequest
		wantFull bool
		known    string
	}{
		{report("s1", 1, false, "a"), true, "a"},
		{report("s1", 2, true, "a", "b"), false, "ab"},
		{report("s1", 3, false, "c"), false, "abc"},
		{report("s1", 2, true, "z"), false, "abc"}, // late
		{report("s1", 4, true, "b"), false, "b"},
		{report("s2", 1, false, "d"), true, "d"}, // restarted: nothing of before holds
	}
	for i, step := range steps {
		if got := s.Report(step.req, at(time.Duration(i)*time.Second)); got != step.wantFull {
			t.Errorf("step %d: wantFull = %v", i, got)
		}
		snap := s.Snapshot(at(time.Minute), nil)
		known := ""
		for _, id := range []string{"a", "b", "c", "d", "z"} {
			if r := snap.Replicas[id]; r != nil && !r.Stale {
				known += id
			}
		}
		if known != step.known {
			t.Errorf("step %d: knows %q, want %q", i, known, step.known)
		}
	}
	s.Lead(at(time.Hour))
	if s.Observation("d", at(time.Hour)) != nil || !s.Report(report("s2", 2, false), at(time.Hour)) {
		t.Error("a new leader must start with nothing and ask for everything")
	}
}

func TestLagGrowsWithSilence(t *testing.T) {
	s := newState(t)
	s.Report(report("s1", 1, true, "a"), at(0))
	if got := s.Observation("a", at(4*time.Second)).GetLag().AsDuration(); got != 5*time.Second {
		t.Errorf("shown lag %v, want the reported second and four of silence", got)
	}
	for silence, want := range map[time.Duration]time.Duration{4 * time.Second: time.Second, 8 * time.Second: 4 * time.Second} {
		snap := s.Snapshot(at(silence), nil)
		if got, ok := snap.Lag(snap.Replicas["a"]); !ok || got != want {
			t.Errorf("after %v lag is %v, want %v: a report holds until the next is due", silence, got, want)
		}
	}
}

// TestLagSurvivesRestart: a copy that was equal a moment ago still was when its
// agent has started anew and has nothing to say yet, but not when it is gone.
// What a failover loses is counted from the last word on, with no grace for a
// report that is on its way, and with the age that one may have when it arrives.
func TestBehindIsNeverTooSmall(t *testing.T) {
	s := newState(t)
	s.Report(report("s1", 1, true, "a"), at(0))
	snap := s.Snapshot(at(500*time.Millisecond), nil)
	want := 1500*time.Millisecond + snap.ReportInterval
	if got, ok := snap.Behind(snap.Replicas["a"]); !ok || got != want {
		t.Errorf("behind by %s, want %s", got, want)
	}
	if _, ok := snap.Behind(nil); ok {
		t.Error("known of a replica that never spoke")
	}
}

func TestLagSurvivesRestart(t *testing.T) {
	s := newState(t)
	s.Report(report("s1", 1, true, "a", "b"), at(0))
	silent := &tarnv1.ReportRequest{HostId: "h", SessionId: "s2", Sequence: 1, Full: true, Replicas: []*tarnv1.ReplicaReport{
		{ReplicaId: "a", HeadGuid: 1}, {ReplicaId: "b"},
	}}
	lag := func(id string) (time.Duration, bool) {
		snap := s.Snapshot(at(20*time.Second), nil)
		return snap.Lag(snap.Replicas[id])
	}
	s.Report(report("s2", 0, false), at(time.Second)) // sequence 0: says nothing
	if got, ok := lag("b"); !ok || got != 16*time.Second {
		t.Errorf("before the first word lag is %v, %v", got, ok)
	}
	s.Report(silent, at(10*time.Second))
	if got, ok := lag("a"); !ok || got != 16*time.Second {
		t.Errorf("after it lag is %v, %v, want a second and 15 of 20 that passed", got, ok)
	}
	if _, ok := lag("b"); ok {
		t.Error("a copy without any snapshot has a lag")
	}
	silent.Sequence, silent.Replicas[0] = 2, &tarnv1.ReplicaReport{ReplicaId: "a", HeadGuid: 1, ObservedEpoch: 9}
	s.Report(silent, at(11*time.Second))
	if _, ok := lag("a"); ok {
		t.Error("a lag behind one source counts for the next")
	}
}

func TestMissedHostsAndGrace(t *testing.T) {
	s := newState(t)
	s.Report(report("s1", 1, true), at(5*time.Second))
	for _, c := range []struct {
		after         time.Duration
		heard, absent bool
	}{{15 * time.Second, false, false}, {16 * time.Second, true, false}, {20 * time.Second, true, false}, {21 * time.Second, true, true}} {
		snap := s.Snapshot(at(c.after), nil)
		if snap.Missed("h") != c.heard || snap.Missed("never") != c.absent {
			t.Errorf("after %v: missed %v, %v", c.after, snap.Missed("h"), snap.Missed("never"))
		}
	}
}

func TestReplicaOfAnotherHostIsNotBelieved(t *testing.T) {
	s := newState(t)
	s.Report(report("s1", 1, true, "a"), at(0))
	snap := s.Snapshot(at(0), nil)
	if snap.Replica(&tarnv1.Replica{Id: "a", HostId: "other"}) != nil {
		t.Error("a report by a host that does not hold the replica was taken")
	}
	if snap.Replica(&tarnv1.Replica{Id: "a", HostId: "h"}) == nil {
		t.Error("the holder's report was not taken")
	}
}

func TestChangedWakes(t *testing.T) {
	s := newState(t)
	changed := s.Changed()
	s.Report(report("s1", 1, true), at(0))
	select {
	case <-changed:
	default:
		t.Error("a report did not wake")
	}
}

func TestLeases(t *testing.T) {
	const wait = 15 * time.Second
	l := NewLeases()
	if l.Expired("h", wait, at(time.Hour)) {
		t.Error("expired before leadership began")
	}
	l.Lead(at(0))
	if l.Expired("h", wait, at(wait-1)) || !l.Expired("h", wait, at(wait)) {
		t.Error("a new leader must wait exactly D_c for a host it has not granted")
	}
	l.Grant("h", at(10*time.Second))
	l.Grant("h", at(3*time.Second)) // a slower handler
	if got := l.LastPossibleGrant("h"); !got.Equal(at(10 * time.Second)) {
		t.Errorf("last possible grant %v", got)
	}
	if l.Expired("h", wait, at(20*time.Second)) || !l.Expired("h", wait, at(25*time.Second)) {
		t.Error("expiry must count from the last grant")
	}
	s := newState(t)
	if s.Snapshot(at(time.Hour), nil).LeaseExpired("h", wait) {
		t.Error("expired without a table")
	}
	if snap := s.Snapshot(at(24*time.Second), l); snap.LeaseExpired("h", wait) || !snap.LeaseExpired("x", wait) {
		t.Error("the snapshot disagrees with the table")
	}
	l.Lead(at(time.Minute))
	if l.Expired("h", wait, at(time.Minute+wait-1)) {
		t.Error("a second leadership must wait again")
	}
}

func TestPromotionNotes(t *testing.T) {
	s := newState(t)
	s.SetQuiesce("op", at(time.Second))
	s.SetStonith(StonithResult{Proof: "outlet 7 is off"}, "op")
	snap := s.Snapshot(at(0), nil)
	s.Forget("op")
	if snap.Quiesce["op"].IsZero() || snap.Stonith["op"].Proof == "" {
		t.Error("a snapshot changed")
	}
	if after := s.Snapshot(at(0), nil); len(after.Quiesce)+len(after.Stonith) != 0 {
		t.Error("an ended promotion is remembered")
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{TTL: time.Second, ReportInterval: time.Second}); err == nil {
		t.Error("an interval as long as the TTL was taken")
	}
	if s, err := New(Config{TTL: 4 * time.Second}); err != nil || s.cfg.ReportInterval != 2*time.Second {
		t.Errorf("got %+v, %v", s, err)
	}
}

// While a host passes to another machine nothing is granted to it; what became of it is
// learned from its outcome, from a later registration, or by the next leader.
func TestPassing(t *testing.T) {
	const wait = 10 * time.Second
	l := NewLeases()
	if _, ok := l.Pass("h", "b", wait, at(time.Hour)); ok {
		t.Error("passed without a leader")
	}
	l.Lead(at(0))
	begin := func(session string, now time.Duration) func(done, known bool) {
		t.Helper()
		settle, ok := l.Pass("h", session, wait, at(now))
		if !ok {
			t.Fatalf("session %s cannot take over after %s", session, now)
		}
		return settle
	}
	grants := func(want bool, when string) {
		t.Helper()
		if l.Grant("h", at(20*time.Second)) != want {
			t.Errorf("%s: granted is %v", when, !want)
		}
		if !l.Grant("other", at(20*time.Second)) {
			t.Errorf("%s: another host gets nothing", when)
		}
	}
	for _, early := range []time.Duration{0, wait - 1} {
		if _, ok := l.Pass("h", "b", wait, at(early)); ok {
			t.Errorf("passed %s after the leader came", early)
		}
	}
	settle := begin("b", wait)
	if _, ok := l.Pass("h", "c", wait, at(time.Minute)); ok {
		t.Error("two at once")
	}
	grants(false, "on the way")
	l.Registered("h", "a", true) // was proposed before
	grants(false, "on the way, another registered")
	settle(true, true)
	grants(true, "there")
	if _, ok := l.Pass("h", "c", wait, at(30*time.Second-1)); ok {
		t.Error("passed before the end of the last lease")
	}

	begin("c", 30*time.Second)(false, true)
	grants(true, "refused")
	begin("c", time.Minute)(false, false)
	grants(false, "unknown")
	l.Registered("h", "b", false)
	grants(false, "unknown, and the old one is still there")
	begin("d", time.Minute)(false, true)
	grants(false, "unknown, and another refused")
	l.Registered("h", "c", false)
	grants(true, "was done")
	begin("d", 2*time.Minute)(false, false)
	l.Registered("h", "b", true)
	grants(true, "another came later")
	begin("e", 3*time.Minute)(false, false)
	l.Lead(at(4 * time.Minute))
	if !l.Grant("h", at(5*time.Minute)) {
		t.Error("the next leader grants nothing")
	}
	settle = begin("f", 6*time.Minute)
	l.Lead(at(7 * time.Minute))
	settle(false, false)
	if !l.Grant("h", at(8*time.Minute)) {
		t.Error("a pass of the last leadership bars this one")
	}
}
