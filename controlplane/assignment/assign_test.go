package assignment

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	tarnv1 "tarn/proto/tarn/v1"
)

const (
	readable  = tarnv1.ReplicationType_REPLICATION_TYPE_READABLE
	dr        = tarnv1.ReplicationType_REPLICATION_TYPE_DR
	phaseOn   = tarnv1.FencingPhase_FENCING_PHASE_ACTIVE
	phaseOff  = tarnv1.FencingPhase_FENCING_PHASE_FENCING
	planned   = tarnv1.PromotionMode_PROMOTION_MODE_PLANNED
	forced    = tarnv1.PromotionMode_PROMOTION_MODE_FORCED
	active    = tarnv1.Role_ROLE_ACTIVE
	secondary = tarnv1.Role_ROLE_SECONDARY
	fenced    = tarnv1.Role_ROLE_FENCED
	gone      = tarnv1.Role_ROLE_DELETING
)

// shareOf is a share on hosts ha, hb and hc, owned by replica a, with one rw rule.
func shareOf(kind tarnv1.ReplicationType, f *tarnv1.Fencing) *facts {
	f.OwnerReplicaId = "a"
	if f.Phase == 0 {
		f.Phase = phaseOn
	}
	if f.Epoch == 0 {
		f.Epoch = 3
	}
	out := &facts{
		share: &tarnv1.Share{Id: "s", Name: "home", SizeGib: 10, ReplicationType: kind, Fencing: f, AccessRevision: 7},
		rules: []*tarnv1.AccessRule{
			{Id: "r1", AccessTo: "10.0.0.0/8", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RW},
			{Id: "r2", AccessTo: "11.0.0.1", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RO, Denied: true},
		},
		host:  func(id string) (*tarnv1.Host, bool) { return &tarnv1.Host{Id: id, Address: id + ":1"}, true },
		holds: func(string, string) bool { return true },
	}
	for _, id := range []string{"a", "b", "c"} {
		out.replicas = append(out.replicas, &tarnv1.Replica{Id: id, ShareId: "s", HostId: "h" + id, Pool: "p", Status: tarnv1.Status_STATUS_AVAILABLE})
	}
	return out
}

func (f *facts) of(id string) *tarnv1.Assignment {
	for _, r := range f.replicas {
		if r.GetId() == id {
			return f.assignment(r)
		}
	}
	return nil
}

func TestRoles(t *testing.T) {
	fencing := func(mode tarnv1.PromotionMode) *tarnv1.Fencing {
		return &tarnv1.Fencing{Phase: phaseOff, Mode: mode, TargetReplicaId: "b", OpId: "op", FinalGuid: 9}
	}
	cases := []struct {
		name    string
		fencing *tarnv1.Fencing
		roles   [3]tarnv1.Role
		ops     [3]string
		final   [3]uint64
		seal    [3]bool
	}{
		{"steady", &tarnv1.Fencing{OpId: "old"}, [3]tarnv1.Role{active, secondary, secondary}, [3]string{}, [3]uint64{}, [3]bool{}},
		{"planned", fencing(planned), [3]tarnv1.Role{fenced, secondary, secondary}, [3]string{"op", "op", ""}, [3]uint64{0, 9, 0}, [3]bool{}},
		{"forced", fencing(forced), [3]tarnv1.Role{fenced, fenced, secondary}, [3]string{"op", "op", ""}, [3]uint64{}, [3]bool{false, true, false}},
		{"no phase", &tarnv1.Fencing{Phase: 99}, [3]tarnv1.Role{fenced, fenced, fenced}, [3]string{}, [3]uint64{}, [3]bool{}},
	}
	for _, c := range cases {
		f := shareOf(readable, c.fencing)
		for i, id := range []string{"a", "b", "c"} {
			a := f.of(id)
			if a.GetRole() != c.roles[i] || a.GetOpId() != c.ops[i] || a.GetFinalGuid() != c.final[i] || a.GetSeal() != c.seal[i] || a.GetEpoch() != 3 {
				t.Errorf("%s: replica %s gets %v", c.name, id, a)
			}
			if (a.GetSource() != nil) != (a.GetRole() == secondary) {
				t.Errorf("%s: replica %s has source %v in role %v", c.name, id, a.GetSource(), a.GetRole())
			}
		}
		if peers := f.of("a").GetPeers(); len(peers) != 2 {
			t.Errorf("%s: the owner lets %v pull, want both others", c.name, peers)
		}
	}
}

func TestDeletingReplicaGetsNothingElse(t *testing.T) {
	f := shareOf(readable, &tarnv1.Fencing{})
	f.replicas[1].Status = tarnv1.Status_STATUS_DELETING
	f.snapshots = []*tarnv1.Snapshot{{Id: "x", Guid: 1}}
	a := f.of("b")
	if a.GetRole() != gone || a.GetExports() != nil || a.GetSource() != nil || len(a.GetSnapshots()) != 0 {
		t.Errorf("got %v", a)
	}
	if peers := f.of("a").GetPeers(); len(peers) != 1 || peers[0].GetReplicaId() != "c" {
		t.Errorf("peers are %v, want c alone", peers)
	}
	f.replicas[0].Status = tarnv1.Status_STATUS_ERROR_DELETING
	if got := f.of("a").GetRole(); got != gone {
		t.Errorf("an owner that is being deleted is %v", got)
	}
}

func TestGivingBackAndTakingOver(t *testing.T) {
	f := shareOf(readable, &tarnv1.Fencing{})
	f.replicas[0].Status, f.replicas[0].ManagedFrom = tarnv1.Status_STATUS_MANAGE_STARTING, "p/data"
	if a := f.of("a"); a.GetRole() != active || a.GetManagedFrom() != "p/data" || a.GetEstablished() {
		t.Errorf("what is taken over gets %v", a)
	}
	for _, st := range []tarnv1.Status{
		tarnv1.Status_STATUS_UNMANAGE_STARTING, tarnv1.Status_STATUS_UNMANAGE_ERROR, tarnv1.Status_STATUS_MANAGE_ERROR_UNMANAGE_STARTING,
	} {
		f.replicas[1].Status, f.replicas[1].ManagedFrom = st, "p/copy"
		a := f.of("b")
		if a.GetRole() != tarnv1.Role_ROLE_RELEASING || a.GetManagedFrom() != "p/copy" || a.GetExports() != nil || a.GetSource() != nil {
			t.Errorf("%v: gets %v", st, a)
		}
		if peers := f.of("a").GetPeers(); len(peers) != 1 || peers[0].GetReplicaId() != "c" {
			t.Errorf("%v: peers are %v, want c alone", st, peers)
		}
	}
}

// Without these an agent makes an empty share where a pool came back without the
// replica's dataset, and hides readable secondaries that have no rule yet.
func TestWhatTheReplicaIs(t *testing.T) {
	f := shareOf(dr, &tarnv1.Fencing{})
	if a := f.of("a"); a.GetEstablished() || a.GetReplicationType() != dr {
		t.Errorf("a new replica of type dr: established %t, type %v", a.GetEstablished(), a.GetReplicationType())
	}
	f.replicas[0].LaunchedAt = timestamppb.Now()
	if a := f.of("a"); !a.GetEstablished() {
		t.Error("a replica that was available before is not established")
	}
}

func TestExports(t *testing.T) {
	cases := []struct {
		kind  tarnv1.ReplicationType
		id    string
		rules string
		fsid  string
	}{
		{readable, "a", "r1 RW", "s"},
		{readable, "b", "r1 RO", "b"},
		{dr, "a", "r1 RW", "s"},
		{dr, "b", "", "b"},
	}
	for _, c := range cases {
		e := shareOf(c.kind, &tarnv1.Fencing{}).of(c.id).GetExports()
		got := ""
		for _, r := range e.GetRules() {
			got += r.GetAccessRuleId() + " " + r.GetAccessLevel().String()[len("ACCESS_LEVEL_"):]
		}
		if got != c.rules || e.GetFsid() != c.fsid || e.GetRevision() != 7 {
			t.Errorf("%v %s: got %v", c.kind, c.id, e)
		}
	}
	if e := shareOf(readable, &tarnv1.Fencing{Phase: phaseOff, TargetReplicaId: "b", Mode: planned}).of("a").GetExports(); len(e.GetRules()) != 0 {
		t.Errorf("a fenced owner exports %v", e)
	}
}

func TestSquashOfTheTypeReachesTheServer(t *testing.T) {
	for spec, want := range map[string]tarnv1.Squash{
		"": tarnv1.Squash_SQUASH_ROOT, "none": tarnv1.Squash_SQUASH_NONE, "all": tarnv1.Squash_SQUASH_ALL,
	} {
		f := shareOf(readable, &tarnv1.Fencing{})
		if spec != "" {
			f.share.ExtraSpecs = map[string]string{"tarn:squash": spec}
		}
		for _, id := range []string{"a", "b"} {
			if got := f.of(id).GetExports().GetSquash(); got != want {
				t.Errorf("tarn:squash=%q: replica %s is exported with %v", spec, id, got)
			}
		}
	}
}

func TestFsidFollowsTheLastLossOnly(t *testing.T) {
	share := &tarnv1.Share{Id: "0190b8a0-0000-7000-8000-000000000001", Fencing: &tarnv1.Fencing{}}
	fsid := func(lossEpoch, epoch uint64) string {
		share.Fencing.FsidEpoch, share.Fencing.Epoch = lossEpoch, epoch
		return Fsid(share)
	}
	if fsid(0, 1) != share.GetId() || fsid(0, 4) != share.GetId() {
		t.Error("a move without loss changes the fsid")
	}
	second, third := fsid(2, 2), fsid(3, 3)
	if second == share.GetId() || second == third || second != fsid(2, 5) {
		t.Errorf("after losses the fsids are %s, %s", second, third)
	}
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		status           tarnv1.Status
		pending          int64
		owner, secondary int64
	}{
		{tarnv1.Status_STATUS_AVAILABLE, 0, 10, 10},
		{tarnv1.Status_STATUS_EXTENDING, 20, 20, 20},
		{tarnv1.Status_STATUS_SHRINKING, 5, 5, 10},
	} {
		f := shareOf(readable, &tarnv1.Fencing{})
		f.share.PendingSizeGib, f.share.ResizeStatus = c.pending, c.status
		if a, b := f.of("a").GetSizeGib(), f.of("b").GetSizeGib(); a != c.owner || b != c.secondary {
			t.Errorf("%v: owner %d, secondary %d", c.status, a, b)
		}
	}
}

func TestCadence(t *testing.T) {
	for rpo, want := range map[time.Duration]time.Duration{
		0: 15 * time.Second, time.Second: time.Second, 10 * time.Second: 2500 * time.Millisecond, 24 * time.Hour: 5 * time.Minute,
	} {
		if got := Cadence(&tarnv1.Share{Rpo: durationpb.New(rpo)}); got != want {
			t.Errorf("RPO %v: cadence %v, want %v", rpo, got, want)
		}
	}
}

func TestSnapshotsAndProtectedGUIDs(t *testing.T) {
	f := shareOf(readable, &tarnv1.Fencing{Lineage: []*tarnv1.LineageEntry{{BaseGuid: 0}, {BaseGuid: 4}}, SealedGuid: 4})
	f.replicas[1].HeadGuid, f.replicas[2].HeadGuid = 8, 6
	f.snapshots = []*tarnv1.Snapshot{{Id: "new"}, {Id: "kept", Guid: 1}, {Id: "going", Guid: 2, Deleting: true}, {Id: "elsewhere", Guid: 3}}
	f.holds = func(replica, snapshot string) bool { return snapshot != "elsewhere" || replica == "c" }
	a := f.of("b")
	if got := fmt.Sprint(ids(a.GetSnapshots()), ids(a.GetRemovedSnapshots())); got != "[new kept] [going]" {
		t.Errorf("wanted and removed are %s", got)
	}
	if !slices.Equal(a.GetProtectedGuids(), []uint64{4, 6, 8}) {
		t.Errorf("protected are %v", a.GetProtectedGuids())
	}
}

func ids(list []*tarnv1.WantedSnapshot) []string {
	var out []string
	for _, s := range list {
		out = append(out, s.GetSnapshotId())
	}
	return out
}

// TestAtMostOneWriter draws every combination of fencing and statuses.
func TestAtMostOneWriter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replica := rapid.SampledFrom([]string{"", "a", "b", "c", "x"})
		kind := tarnv1.ReplicationType(rapid.IntRange(0, 3).Draw(t, "type"))
		f := shareOf(kind, &tarnv1.Fencing{Epoch: 1})
		f.share.Fencing = &tarnv1.Fencing{
			Epoch: 1, Phase: tarnv1.FencingPhase(rapid.IntRange(0, 2).Draw(t, "phase")), OwnerReplicaId: replica.Draw(t, "owner"),
			TargetReplicaId: replica.Draw(t, "target"), Mode: tarnv1.PromotionMode(rapid.IntRange(0, 2).Draw(t, "mode")),
		}
		writers := 0
		for _, r := range f.replicas {
			r.Status = tarnv1.Status(rapid.IntRange(0, 17).Draw(t, "status"))
			a := f.assignment(r)
			owner := a.GetRole() == active
			if owner {
				writers++
				if f.share.GetFencing().GetPhase() != phaseOn {
					t.Fatalf("replica %s is active in phase %v", r.GetId(), f.share.GetFencing().GetPhase())
				}
			}
			for _, rule := range a.GetExports().GetRules() {
				if !owner && (kind != readable || a.GetRole() != secondary || rule.GetAccessLevel() != tarnv1.AccessLevel_ACCESS_LEVEL_RO) {
					t.Fatalf("replica %s exports %v in role %v of a %v share", r.GetId(), rule, a.GetRole(), kind)
				}
			}
		}
		if writers > 1 {
			t.Fatalf("%d replicas are active", writers)
		}
	})
}

// TestKeepFollowsTheShare: hosts get the policy of the share's own extra specs, in
// every role that keeps data.
func TestKeepFollowsTheShare(t *testing.T) {
	f := shareOf(dr, &tarnv1.Fencing{})
	if f.of("a").GetKeep() != nil {
		t.Errorf("without tarn:keep: %v", f.of("a").GetKeep())
	}
	f.share.ExtraSpecs = map[string]string{"tarn:keep": "1h:all,30d:1d"}
	for _, id := range []string{"a", "b"} {
		rules := f.of(id).GetKeep().GetRules()
		if len(rules) != 2 || rules[1].GetUpTo().AsDuration() != 30*24*time.Hour || rules[1].GetEvery().AsDuration() != 24*time.Hour {
			t.Errorf("replica %s: %v", id, rules)
		}
	}
}
