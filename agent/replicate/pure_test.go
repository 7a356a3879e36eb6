package replicate

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/agent/stream"
	"tarn/agent/stream/memzfs"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

func TestLagClock(t *testing.T) {
	var c lagClock
	now := time.Now()
	if _, ok := c.lag(now); ok {
		t.Error("a lag without any knowledge")
	}
	c.holds(1)
	c.saw(1, now.Add(-3*time.Second))
	c.saw(2, now.Add(-time.Second))
	c.holds(1)
	if d, ok := c.lag(now); !ok || d != 3*time.Second {
		t.Errorf("lag %v %v", d, ok)
	}
	c.saw(1, now.Add(-5*time.Second))
	c.holds(1)
	if d, _ := c.lag(now); d != 3*time.Second {
		t.Errorf("older news made the lag %v", d)
	}
	c.holds(2)
	if d, _ := c.lag(now.Add(time.Minute)); d != 61*time.Second {
		t.Errorf("lag %v after a minute of silence", d)
	}
	for g := range 10 * knownHeads {
		c.saw(zfs.GUID(g+10), now)
	}
	if len(c.known) > knownHeads || len(c.order) > knownHeads {
		t.Errorf("%d heads remembered", len(c.known))
	}
	c.reset()
	if _, ok := c.lag(now); ok {
		t.Error("a lag of another source's history")
	}
}

// stateFor has a dataset with the replica's own marks.
func stateFor(role tarnv1.Role, epoch uint64, m marks, change func(*state)) *state {
	s := &state{
		a:       &tarnv1.Assignment{ReplicaId: "r", ShareId: "s", Role: role, Epoch: epoch, OpId: "op", Source: &tarnv1.Source{ReplicaId: "src"}},
		backoff: func(kind) bool { return false }, export: &exportState{},
	}
	m.share, m.replica = "s", "r"
	s.f = facts{ds: &zfs.Dataset{ReadOnly: true}, marks: m, versions: []zfs.Version{version(1, "tarn.s.1.1", 0)}}
	s.heldLast, s.released, s.opened = 1, true, true
	if change != nil {
		change(s)
	}
	return s
}

// takeoverState has a dataset under its former name and none under the replica's.
func takeoverState(role tarnv1.Role, change func(*state)) *state {
	s := stateFor(role, 1, marks{}, nil)
	s.l = layout{pool: "p", base: "tarn", replica: "r"}
	s.a.ManagedFrom = "p/data"
	s.f = facts{former: &former{ds: zfs.Dataset{Name: "p/data", User: map[string]zfs.Property{}}}}
	if change != nil {
		change(s)
	}
	return s
}

// record notes on the dataset whose it is to become.
func (s *state) record() {
	s.f.former.marks = marks{share: "s", replica: "r"}
	s.f.former.ds.User[markWas] = zfs.Property{Value: "path=", Source: zfs.SourceLocal}
}

func TestStep(t *testing.T) {
	releasing := tarnv1.Role_ROLE_RELEASING
	active, secondary, fenced, deleting := tarnv1.Role_ROLE_ACTIVE, tarnv1.Role_ROLE_SECONDARY, tarnv1.Role_ROLE_FENCED, tarnv1.Role_ROLE_DELETING
	primary, replica := marks{role: rolePrimary, epoch: 3}, marks{role: roleReplica, epoch: 3}
	for _, c := range []struct {
		name string
		s    *state
		want kind
	}{
		{"missing dataset of a new share", stateFor(active, 1, primary, func(s *state) { s.f = facts{} }), doCreate},
		{"missing dataset of an old share", stateFor(active, 1, primary, func(s *state) { s.f = facts{}; s.a.Established = true }), doRefuse},
		{"missing dataset after a promotion", stateFor(active, 2, primary, func(s *state) { s.f = facts{} }), doRefuse},
		{"somebody's dataset", stateFor(active, 3, primary, func(s *state) { s.f.marks.share = "other" }), doRefuse},
		{"later epoch on disk", stateFor(active, 2, primary, nil), doRefuse},
		{"no lease: nothing to do at rest", stateFor(active, 3, primary, nil), doIdle},
		{"no lease: unexport first", stateFor(active, 3, primary, func(s *state) { s.export.active = true; s.f.ds.Mounted = true }), doUnexport},
		{"no lease: an export of an earlier life counts", stateFor(active, 3, primary, func(s *state) { s.export = nil; s.f.ds.Mounted = true }), doUnexport},
		{"no lease: unmount", stateFor(active, 3, primary, func(s *state) { s.f.ds.Mounted = true }), doUnmount},
		{"no lease: handles may be open behind a fence", stateFor(active, 3, primary, func(s *state) { s.released = false }), doUnmount},
		{"former owner: handles may be open behind a fence", stateFor(secondary, 4, primary, func(s *state) { s.released = false }), doUnmount},
		{"demotion: handles may be open behind a fence", stateFor(fenced, 3, primary, func(s *state) { s.released = false }), doUnmount},
		{"no lease: read-only", stateFor(active, 3, primary, func(s *state) { s.f.ds.ReadOnly = false }), doReadOnly},
		{"epoch is persisted before anything is writable", stateFor(active, 4, primary, func(s *state) { s.lease = true }), doMark},
		{"promoted: half a receive goes first", stateFor(active, 4, replica, func(s *state) { s.lease = true; s.f.ds.ResumeToken = "t" }), doAbort},
		{"promoted without the epoch's base", stateFor(active, 4, replica, func(s *state) {
			s.a.Lineage = []*tarnv1.LineageEntry{{Epoch: 4, OwnerReplicaId: "r", BaseGuid: 99}}
		}), doRefuse},
		{"lease: writable", stateFor(active, 3, primary, func(s *state) { s.lease = true }), doWritable},
		{"lease: mount", stateFor(active, 3, primary, func(s *state) { s.lease = true; s.f.ds.ReadOnly = false }), doMount},
		{"lease: not mounted any more: out of reach first", stateFor(active, 3, primary, func(s *state) { s.lease, s.f.ds.ReadOnly, s.export.active = true, false, true }), doUnexport},
		{"lease: export", stateFor(active, 3, primary, func(s *state) { s.lease, s.f.ds.ReadOnly, s.f.ds.Mounted = true, false, true }), doExport},
		{"former owner: out of reach first", stateFor(secondary, 4, primary, func(s *state) { s.export = nil; s.f.ds.Mounted = true }), doUnexport},
		{"former owner: dirty head becomes a snapshot", stateFor(secondary, 4, primary, func(s *state) { s.f.ds.Written = 5 }), doSealHead},
		{"former owner: a head that cannot be measured becomes one", stateFor(secondary, 4, primary, func(s *state) { s.f.ds.Written = -1 }), doSealHead},
		{"former owner: but only once", stateFor(secondary, 4, primary, func(s *state) {
			s.f.ds.Written, s.f.versions[0].Name = -1, divergentPrefix+"3"
		}), doMark},
		{"lease: exported where it is not mounted any more", stateFor(active, 3, primary, func(s *state) {
			s.lease, s.f.ds.ReadOnly, s.f.ds.Mounted, s.f.ds.Mountpoint = true, false, true, "/new"
			s.export = &exportState{active: true, at: "/old"}
		}), doUnexport},
		{"former owner: its log may have more than its head", stateFor(secondary, 4, primary, func(s *state) {
			s.opened, s.f.ds.Written, s.f.ds.Mountpoint = false, 5, "/p/r"
		}), doReadLog},
		{"former owner: a log that is mounted nowhere", stateFor(secondary, 4, primary, func(s *state) { s.opened = false }), doMark},
		{"former owner: out of reach before its log is read", stateFor(secondary, 4, primary, func(s *state) { s.opened, s.export = false, nil }), doUnexport},
		{"former owner: a log that cannot be read", stateFor(secondary, 4, primary, func(s *state) {
			s.opened, s.a.Encrypted, s.f.ds.Mountpoint = false, true, "/p/r"
		}), doMark},
		{"a replica has no log", stateFor(secondary, 4, replica, func(s *state) { s.opened = false }), doMark},
		{"former owner: clean", stateFor(secondary, 4, primary, nil), doMark},
		{"diverged: recorded before anything moves", stateFor(secondary, 3, replica, func(s *state) { g := zfs.GUID(1); s.diverged = &g }), doMark},
		{"rebase recorded: put aside", stateFor(secondary, 3, marks{role: roleReplica, epoch: 3, op: rebasePrefix + "1"}, nil), doPutAside},
		{"put aside: clone", stateFor(secondary, 3, replica, func(s *state) {
			s.f = facts{moved: &zfs.Dataset{Name: "p/x", User: map[string]zfs.Property{markOp: {Value: rebasePrefix + "1", Source: zfs.SourceLocal}}}}
		}), doRebase},
		{"a mark that was received is no record", stateFor(secondary, 3, replica, func(s *state) {
			s.f = facts{moved: &zfs.Dataset{Name: "p/x", User: map[string]zfs.Property{markOp: {Value: rebasePrefix + "1", Source: zfs.SourceReceived}}}}
		}), doFinishAside},
		{"cloned: promote", stateFor(secondary, 3, replica, func(s *state) { s.f.moved = &zfs.Dataset{Name: "p/x"}; s.f.ds.Origin = "p/x@c" }), doPromote},
		{"promoted: record", stateFor(secondary, 3, replica, func(s *state) { s.f.moved = &zfs.Dataset{Name: "p/x"} }), doFinishAside},
		{"received and promised but not held", stateFor(secondary, 3, replica, func(s *state) { s.heldLast, s.a.FinalGuid = 0, 1 }), doHoldLast},
		{"received but not held: retention's", stateFor(secondary, 3, replica, func(s *state) { s.heldLast = 0 }), doIdle},
		{"news", stateFor(secondary, 3, replica, func(s *state) { s.wantPull = true }), doPull},
		{"one pull at a time", stateFor(secondary, 3, replica, func(s *state) { s.wantPull, s.pulling = true, true }), doIdle},
		{"missing: everything", stateFor(secondary, 3, replica, func(s *state) { s.f = facts{} }), doPullStaging},
		{"arrived: adopt", stateFor(secondary, 3, replica, func(s *state) { s.f = facts{staging: &zfs.Dataset{}, arrived: 1} }), doAdopt},
		{"demotion: out of reach", stateFor(fenced, 3, primary, func(s *state) { s.export = nil; s.f.ds.Mounted = true }), doUnexport},
		{"demotion: unmount", stateFor(fenced, 3, primary, func(s *state) { s.f.ds.Mounted = true }), doUnmount},
		{"demotion: read-only", stateFor(fenced, 3, primary, func(s *state) { s.f.ds.ReadOnly = false }), doReadOnly},
		{"demotion: final snapshot", stateFor(fenced, 3, primary, nil), doFinal},
		{"demotion: written after the final snapshot", stateFor(fenced, 3, primary, func(s *state) {
			s.f.versions[0].Name, s.f.ds.Written = "tarn-final-3", 1
		}), doFinal},
		{"demotion: raise the floor", stateFor(fenced, 3, primary, func(s *state) { s.f.versions[0].Name = "tarn-final-3" }), doMark},
		{"seal: abort first", stateFor(fenced, 3, replica, func(s *state) { s.a.Seal = true; s.f.ds.ResumeToken = "t" }), doAbort},
		{"seal: raise the floor", stateFor(fenced, 3, replica, func(s *state) { s.a.Seal = true }), doMark},
		{"another promotion's floor", stateFor(fenced, 3, marks{role: roleFenced, epoch: 4, op: "other"}, nil), doRefuse},
		{"removal: snapshots", stateFor(deleting, 3, replica, nil), doDropSnapshots},
		{"removal: dataset", stateFor(deleting, 3, replica, func(s *state) { s.f.versions = nil }), doDestroy},
		{"removal: staging", stateFor(deleting, 3, replica, func(s *state) { s.f = facts{staging: &zfs.Dataset{}} }), doDropStaging},
		{"takeover: nothing there", takeoverState(active, func(s *state) { s.f.former = nil }), doRefuse},
		{"takeover: recorded first", takeoverState(active, nil), doRecord},
		{"takeover: a copy is compared before anything", takeoverState(secondary, nil), doCompare},
		{"takeover: a copy with nothing in common", takeoverState(secondary, func(s *state) { s.unrelated = true }), doRefuse},
		{"takeover: compared", takeoverState(secondary, func(s *state) { s.compared = true }), doRecord},
		{"takeover: out of reach", takeoverState(active, func(s *state) { s.record(); s.f.former.ds.Mounted, s.formerFree = true, true }), doFree},
		{"takeover: handles may be open", takeoverState(active, (*state).record), doFree},
		{"takeover: marked and renamed", takeoverState(active, func(s *state) { s.record(); s.formerFree = true }), doTakeOver},
		{"takeover: a missing dataset of an old share is missing", takeoverState(active, func(s *state) { s.a.Established = true }), doRefuse},
		{"takeover: a received record is none", takeoverState(active, func(s *state) {
			s.record()
			s.f.former.ds.User[markWas] = zfs.Property{Value: "path=", Source: zfs.SourceReceived}
		}), doRecord},
		{"giving back: out of reach", stateFor(releasing, 3, primary, func(s *state) { s.export = nil }), doUnexport},
		{"giving back: handles may be open", stateFor(releasing, 3, primary, func(s *state) { s.released = false }), doUnmount},
		{"giving back: holds", stateFor(releasing, 3, primary, nil), doUntie},
		{"giving back: where it is", stateFor(releasing, 3, primary, func(s *state) { s.untied = true }), doRestore},
		{"giving back: under its name", stateFor(releasing, 3, primary, func(s *state) { s.untied, s.a.ManagedFrom = true, "p/x" }), doGiveBack},
		{"giving back: the name is taken", stateFor(releasing, 3, primary, func(s *state) {
			s.untied, s.a.ManagedFrom, s.f.former = true, "p/x", &former{ds: zfs.Dataset{Name: "p/x"}}
		}), doRefuse},
		{"giving back: the parent has gone", stateFor(releasing, 3, primary, func(s *state) { s.untied, s.a.ManagedFrom, s.f.orphan = true, "p/x/y", true }), doRefuse},
		{"giving back: what it was", takeoverState(releasing, (*state).record), doRestoreFormer},
		{"giving back: marks half removed", takeoverState(releasing, func(s *state) { s.f.former.marks.replica = releasedPrefix + "r" }), doRestoreFormer},
		{"giving back: never taken", takeoverState(releasing, nil), doGone},
		{"giving back: an unfinished rebase first", stateFor(releasing, 3, replica, func(s *state) { s.f.moved = &zfs.Dataset{Name: "p/x"} }), doFinishAside},
		{"removal: somebody's dataset stays", stateFor(deleting, 3, replica, func(s *state) { s.f.marks.replica = "x" }), doGone},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := step(c.s).kind; got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// TestBarriersHold: while an unmount fails, nothing behind it happens.
func TestBarriersHold(t *testing.T) {
	s := stateFor(tarnv1.Role_ROLE_FENCED, 3, marks{role: rolePrimary, epoch: 3}, func(s *state) { s.f.ds.Mounted = true })
	s.backoff = func(k kind) bool { return k == doUnmount }
	if got := step(s).kind; got != doIdle {
		t.Errorf("went on to %s", got)
	}
	if s.acked() {
		t.Error("acknowledged while mounted")
	}
}

// cadenceRig runs a cadence over n datasets in virtual time.
func cadenceRig(t *testing.T, n int, body func(c *Cadence, fs *memzfs.Host, names []string)) {
	synctest.Test(t, func(t *testing.T) {
		fs := memzfs.New(1, testPool)
		c, err := NewCadence(CadenceConfig{Engine: fs, Root: testRoot, Board: stream.NewBoard(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for i := range n {
			name := testRoot + "/" + string(rune('a'+i))
			if err := fs.Create(t.Context(), name, nil, true); err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		body(c, fs, names)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run ended with %v", err)
		}
	})
}

func track(name string, every time.Duration, wanted ...string) Tracked {
	return Tracked{Share: "12345678", Replica: name, Dataset: name, Epoch: 1, Every: every, Peers: []string{"p"}, Wanted: wanted, Notify: func() {}}
}

func TestCadenceTakesAllDueInOneCall(t *testing.T) {
	cadenceRig(t, 10, func(c *Cadence, fs *memzfs.Host, names []string) {
		for _, n := range names {
			c.Set(track(n, time.Second))
		}
		synctest.Wait()
		calls := map[string]int{}
		var taken []string
		fs.SetHooks(func(_ int, op, object string) error {
			calls[op]++
			if op == "snapshot" {
				taken = append(taken, object)
			}
			return nil
		}, nil)
		for _, n := range names[:9] {
			if err := fs.Write(n, "x", true); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if calls["snapshot"] != 1 || len(taken) != 1 {
			t.Errorf("snapshot calls: %v", taken)
		}
		// One listing of datasets, one of the snapshots of the one that seems unchanged;
		// what was taken is read back by name.
		if calls["list"] != 2 || calls["get"] != 1 {
			t.Errorf("%v for 10 datasets, want 2 lists and 1 get", calls)
		}
		tr, _ := c.Tracking(names[9])
		if _, list, _ := fs.Peek(names[9]); len(list) != 1 || tr.Dirty != 0 || time.Since(tr.AsOf) > time.Second {
			t.Errorf("idle dataset: %v, %+v", list, tr)
		}
	})
}

func TestCadenceKeepsToTheCalendar(t *testing.T) {
	cadenceRig(t, 1, func(c *Cadence, fs *memzfs.Host, names []string) {
		time.Sleep(300 * time.Millisecond)
		c.Set(track(names[0], 2*time.Second))
		synctest.Wait()
		for range 5 {
			if err := fs.Write(names[0], "x", true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}
		_, list, _ := fs.Peek(names[0])
		if len(list) != 6 {
			t.Fatalf("%d snapshots", len(list))
		}
		for _, v := range list[1:] {
			if !v.Creation.Equal(v.Creation.Truncate(2 * time.Second)) {
				t.Errorf("taken off the calendar: %v", v.Creation)
			}
		}
	})
}

func TestCadenceTakesWantedSnapshotsAtOnce(t *testing.T) {
	cadenceRig(t, 2, func(c *Cadence, fs *memzfs.Host, names []string) {
		c.Set(track(names[0], time.Hour))
		alone := track(names[1], time.Hour, userPrefix+"1", userPrefix+"2")
		alone.Peers = nil
		c.Set(alone)
		synctest.Wait()
		_, list, _ := fs.Peek(names[1])
		var got []string
		for _, v := range list {
			got = append(got, v.Name)
		}
		if !slices.Equal(got, []string{userPrefix + "1", userPrefix + "2"}) {
			t.Errorf("a share without replicas has %v", got)
		}
	})
}

func TestOneBadDatasetStopsNobody(t *testing.T) {
	cadenceRig(t, 3, func(c *Cadence, fs *memzfs.Host, names []string) {
		bad := &zfs.Error{Op: "snapshot", Object: names[1], Class: zfs.ErrNoSpace}
		fs.SetHooks(func(_ int, op, object string) error {
			if op == "snapshot" && (len(object) > 60 || object[:len(names[1])] == names[1]) {
				return bad
			}
			return nil
		}, nil)
		for _, n := range names {
			c.Set(track(n, time.Second))
		}
		synctest.Wait()
		for i, n := range names {
			_, list, _ := fs.Peek(n)
			tr, _ := c.Tracking(n)
			if i == 1 && (len(list) != 0 || !errors.Is(tr.Err, zfs.ErrNoSpace)) || i != 1 && (len(list) != 1 || tr.Err != nil) {
				t.Errorf("%s: %d snapshots, %v", n, len(list), tr.Err)
			}
		}
	})
}

// TestForeignSnapshotIsTheHead: somebody else's snapshot makes the data look
// clean; they are equal to that one, not to ours.
func TestForeignSnapshotIsTheHead(t *testing.T) {
	cadenceRig(t, 1, func(c *Cadence, fs *memzfs.Host, names []string) {
		c.Set(track(names[0], time.Second))
		synctest.Wait()
		before, _ := c.Tracking(names[0])
		if err := errors.Join(fs.Write(names[0], "x", true), fs.Snapshot(t.Context(), names[0]+"@operators")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		after, _ := c.Tracking(names[0])
		if after.Head.GUID == before.Head.GUID || after.Head.Name != "operators" {
			t.Errorf("head is %+v", after.Head)
		}
	})
}

// TestSlowRoundsEnd: where looking at everything takes longer than the pause after a
// failure, the failure is told all the same.
func TestSlowRoundsEnd(t *testing.T) {
	w := &Worker{failures: map[kind]*failure{}, begun: time.Now().Add(-time.Minute)}
	f := &failure{}
	f.add(zfs.ErrBusy, time.Now())
	f.until = time.Time{} // over
	w.failures[doUnmount] = f
	if !w.backingOff(doUnmount) {
		t.Error("what failed in this round is tried again in it")
	}
	w.begun = time.Now()
	if w.backingOff(doUnmount) {
		t.Error("the next round does not try again")
	}
}
