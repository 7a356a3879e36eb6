package observe

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	tarnv1 "tarn/proto/tarn/v1"
)

// A leader that was suspended would take reports of before for young ones, and tell a
// failover that it loses little. It begins anew instead.
func TestSuspendedLeaderForgets(t *testing.T) {
	var asleep, told time.Duration
	s, err := New(Config{Asleep: func() time.Duration { return asleep }, Wakened: func(lost time.Duration) { told = lost }})
	if err != nil {
		t.Fatal(err)
	}
	asleep = 5 * time.Hour // before this process began
	now := time.Now()
	s.Lead(now)
	r := &tarnv1.ReportRequest{HostId: "b", SessionId: "1", Sequence: 1, Full: true, Replicas: []*tarnv1.ReplicaReport{{ReplicaId: "r", HeadGuid: 1, Lag: durationpb.New(time.Second)}}}
	s.Report(r, now.Add(time.Second))
	s.Began("op", now.Add(time.Second))
	asleep += slack / 2 // two clocks are not read at once
	rep := &tarnv1.Replica{Id: "r", HostId: "b"}
	snap := s.Snapshot(now.Add(2*time.Second), nil)
	if lag, known := snap.Behind(snap.Replica(rep)); told != 0 || !known || lag != 2*time.Second+DefaultReportInterval {
		t.Fatalf("awake: %s behind, known %v, told %s", lag, known, told)
	}
	asleep += time.Hour
	snap = s.Snapshot(now.Add(3*time.Second), nil)
	if lag, known := snap.Behind(snap.Replica(rep)); told != time.Hour || known || snap.Heard("b") || snap.Missed("b") {
		t.Errorf("suspended for an hour: %s behind, known %v, told %s", lag, known, told)
	}
	if got := snap.Running("op", now.Add(-2*time.Hour), now.Add(3*time.Second)); got != 0 {
		t.Errorf("a promotion of before is taken to have run for %s of this leadership", got)
	}
	r.Sequence, told = 2, 0
	if s.Report(r, now.Add(4*time.Second)); told != 0 || !s.Snapshot(now.Add(4*time.Second), nil).Heard("b") {
		t.Error("what is said afterwards does not count")
	}
}

func TestStepsOfTheWallClockAreNoticed(t *testing.T) {
	const s, h = time.Second, time.Hour
	for _, c := range []struct {
		first                 bool
		counted, wall, asleep time.Duration
		want                  time.Duration
	}{
		{true, 9 * h, h, h, 0},
		{false, 5 * s, 5*s + slack, 0, 0},
		{false, h, h, 0, 0}, // stopped, or nobody looked: both clocks counted
		{false, 2 * s, h, 0, h - 2*s},
		{false, 2 * s, -h, 0, -h - 2*s},
		{false, 2 * s, h, h, h},
		{false, 2 * s, 2 * s, h, h}, // the wall clock is not right yet
	} {
		if got := judgePause(c.first, c.counted, c.wall, c.asleep); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// The leader's clock may stand still at any time, for as long as it likes: no lease ever
// seems to have ended that has not.
func TestFreezesOnlyLengthenTheWait(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const wait = 15 * time.Second
		l := NewLeases()
		real, leader := time.Unix(1000, 0), time.Unix(5000, 0)
		l.Lead(leader)
		granted := real // an earlier leader may have
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			d := time.Duration(rapid.IntRange(0, 20_000).Draw(t, "ms")) * time.Millisecond
			real = real.Add(d)
			if !rapid.Bool().Draw(t, "frozen") {
				leader = leader.Add(d)
			}
			if rapid.IntRange(0, 3).Draw(t, "grants") == 0 {
				l.Grant("a", leader)
				granted = real
			}
			if l.Expired("a", wait, leader) && real.Sub(granted) < wait {
				t.Fatalf("taken for ended %s after the grant", real.Sub(granted))
			}
		}
	})
}

// Of a promotion that an earlier leader began no more counts than this leadership.
func TestRunningIsNeverTooLong(t *testing.T) {
	s := newState(t)
	s.Lead(at(0))
	s.Began("op", at(2*time.Second))
	s.Began("op", at(4*time.Second))
	snap := s.Snapshot(at(5*time.Second), nil)
	for _, off := range []time.Duration{-24 * time.Hour, 0, 24 * time.Hour} {
		wall := at(5 * time.Second).Add(off)
		if got := snap.Running("op", at(2*time.Second), wall); got != 3*time.Second {
			t.Errorf("begun here, the wall clock %s off: %s", off, got)
		}
		if got := snap.Running("earlier", at(-time.Minute), wall); got < 0 || got > 5*time.Second {
			t.Errorf("begun by an earlier leader, the wall clock %s off: %s", off, got)
		}
	}
	if got := snap.Running("earlier", at(-time.Minute), at(5*time.Second)); got != 5*time.Second {
		t.Errorf("with a good clock: %s", got)
	}
}
