package raftfsm

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// versionOne are the verbs that nodes of command version 1 know.
var versionOne = []string{
	"put_share_type", "delete_share_type", "create_share", "update_share", "delete_share", "resize_share", "reset_share_status",
	"create_replica", "update_replica_metadata", "delete_replica", "promote_replica", "cancel_promotion", "resync_replica",
	"reset_replica_status", "reset_replica_state", "create_snapshot", "update_snapshot", "delete_snapshot", "reset_snapshot_status",
	"allow_access", "update_access", "deny_access", "put_quota", "reset_quota", "delete_message", "register_host",
	"set_host_admin_state", "remove_host", "put_join_token", "use_join_token", "transitions", "commit_demotion", "commit_seal",
	"commit_proof", "activate", "check_hash", "init_cluster",
}

// versionTwo are those that came with version 2.
var versionTwo = []string{
	"unmanage_replica", "unmanage_share", "unmanage_snapshot", "purge_divergent_copy", "put_user", "revoke_user",
}

// versionFour are those that came with version 4.
var versionFour = []string{"dismiss_unknown_replica"}

// TestEveryVerbHasItsVersion: whoever adds a verb gets the newest version for it, and
// whoever raises the version writes down here what the one before knew.
func TestEveryVerbHasItsVersion(t *testing.T) {
	cmd := &raftv1.Command{}
	verbs := cmd.ProtoReflect().Descriptor().Oneofs().ByName("verb").Fields()
	for i := range verbs.Len() {
		fd := verbs.Get(i)
		if fd.Name() == "set_command_version" {
			continue
		}
		c := &raftv1.Command{}
		c.ProtoReflect().Set(fd, c.ProtoReflect().NewField(fd))
		want := uint32(CommandVersion)
		if slices.Contains(versionOne, string(fd.Name())) {
			want = 1
		}
		if slices.Contains(versionTwo, string(fd.Name())) {
			want = 2
		}
		if slices.Contains(versionFour, string(fd.Name())) {
			want = 4
		}
		if got := VersionOf(c); got != want {
			t.Errorf("%s needs version %d, want %d", fd.Name(), got, want)
		}
	}
	for name, verb := range map[string]any{
		"purges":           &raftv1.Transitions{Purges: []*raftv1.PurgeTransition{{}}},
		"managed share":    &raftv1.CreateShare{Replica: &tarnv1.Replica{ManagedFrom: "tank/old"}},
		"managed snapshot": &raftv1.CreateSnapshot{Snapshot: &tarnv1.Snapshot{ManagedFrom: "daily"}},
		"raising":          &raftv1.SetCommandVersion{Version: 2},
	} {
		if got := VersionOf(wrap(t, verb)); got != 2 {
			t.Errorf("%s: version %d, want 2", name, got)
		}
	}
}

func TestVersionRisesAndStays(t *testing.T) {
	n := newNode(t)
	n.do(&raftv1.InitCluster{ClusterId: "c"})
	if got := n.f.View().CommandVersion(); got != 1 {
		t.Fatalf("a new log is at %d", got)
	}
	n.do(&raftv1.SetCommandVersion{Version: 2})
	n.do(&raftv1.SetCommandVersion{Version: 1})
	if got := n.f.View().CommandVersion(); got != 2 {
		t.Errorf("it fell to %d", got)
	}
	if got := restored(t, dump(t, n.f.View())).View().CommandVersion(); got != 2 {
		t.Errorf("restored at %d", got)
	}
	res := n.try(&raftv1.SetCommandVersion{Version: CommandVersion + 1})
	if res.Err == nil || !errors.Is(n.f.Halted(), ErrNewer) {
		t.Errorf("raised beyond what this node knows: %+v, halted %v", res, n.f.Halted())
	}
}

// TestGuardsWaitForTheirVersion: what nodes of version 1 let pass, a newer one lets pass
// in their company.
func TestGuardsWaitForTheirVersion(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.snapshot("s", "early")
	n.snapshot("s", "late")
	n.arrives("early", "s-r1", 0xe1)
	n.do(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: forced, ExpectedEpoch: 1})
	n.do(&raftv1.CommitSeal{ShareId: "s", OpId: "op", Epoch: 1, HeadGuid: 0xb0})
	n.do(&raftv1.CommitProof{ShareId: "s", OpId: "op", Epoch: 1, Proof: proofLease, Loss: &tarnv1.LossReport{KeptGuid: 0xb0, Bound: "at_least"}})
	n.arrives("late", "s-r1", 0xe2)
}

// TestOutcomesAreInTheHash: two nodes with the same commands and another outcome find
// out. The second one is made to differ by a record that the first one lacks.
func TestOutcomesAreInTheHash(t *testing.T) {
	build := func(version uint32, spoiled bool) *FSM {
		n := newNode(t)
		n.do(&raftv1.InitCluster{ClusterId: "c"})
		if version > 1 {
			n.do(&raftv1.SetCommandVersion{Version: version})
		}
		if spoiled {
			tx := begin(n.f.published.Load())
			mutable(tx.own, &tx.s.types).put(&tarnv1.ShareType{Id: "x", Name: "gold"})
			n.f.published.Store(tx.s)
		}
		n.try(&raftv1.PutShareType{ShareType: &tarnv1.ShareType{Id: "y", Name: "gold"}})
		return n.f
	}
	if a, b := build(1, false), build(1, true); !bytes.Equal(a.View().Hash(), b.View().Hash()) {
		t.Error("version 1 hashes more than commands: nodes of that version would halt")
	}
	a, b := build(2, false), build(2, true)
	if bytes.Equal(a.View().Hash(), b.View().Hash()) {
		t.Fatal("one accepted, the other refused, and the hashes are equal")
	}
	v := a.View()
	check := wrap(t, &raftv1.CheckHash{Index: v.Index(), Hash: v.Hash()})
	data, err := proto.Marshal(check)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*FSM{a, b} {
		f.Apply(&raft.Log{Index: v.Index() + 1, Term: 1, Data: data})
	}
	if a.Halted() != nil || a.Checked() != v.Index() {
		t.Errorf("the equal node: halted %v, checked %d", a.Halted(), a.Checked())
	}
	if !errors.Is(b.Halted(), errHash) || b.Checked() != 0 {
		t.Errorf("the other node: halted %v, checked %d", b.Halted(), b.Checked())
	}
}
