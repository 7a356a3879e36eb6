package reconcile

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/observe"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// Times of the lease in the tests: what an agent counts and what the leader waits.
const (
	leaseHeld = 10 * time.Second
	tick      = 500 * time.Millisecond
)

// fataler is *testing.T or *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is a cluster in one place: the real state machine, the real soft state
// and Step, with hosts that do what assignments say on data that are numbers.
type world struct {
	t      fataler
	now    time.Time
	fsm    *raftfsm.FSM
	soft   *observe.State
	leases *observe.Leases
	policy Policy
	hosts  map[string]*simHost
	order  []string

	index  uint64
	nextID int
	guid   uint64
	// specs are extra specs of the next share's type.
	specs map[string]string
	// restored: the state was put back from a backup.
	restored bool
	// log is every command that was applied.
	log []*raftv1.Command
}

func newWorld(t fataler) *world {
	soft, err := observe.New(observe.Config{})
	if err != nil {
		t.Fatalf("%v", err)
	}
	w := &world{
		t: t, now: time.Unix(0, 0), fsm: raftfsm.New(raftfsm.Config{}),
		soft: soft, leases: observe.NewLeases(), policy: DefaultPolicy(), hosts: make(map[string]*simHost),
	}
	// Before the time of any test: the state machine's time only goes forward.
	w.must(&raftv1.Command{Verb: &raftv1.Command_SetCommandVersion{SetCommandVersion: &raftv1.SetCommandVersion{Version: raftfsm.CommandVersion}}})
	w.now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w.lead()
	return w
}

func (w *world) lead() {
	w.soft.Lead(w.now)
	w.leases.Lead(w.now)
}

func (w *world) id() string {
	w.nextID++
	return fmt.Sprintf("id-%d", w.nextID)
}

func (w *world) newGUID() uint64 {
	w.guid++
	return w.guid
}

// apply puts a command through the log and returns what the state machine said.
func (w *world) apply(cmd *raftv1.Command) *raftfsm.Result {
	w.t.Helper()
	cmd.ProposedAt = timestamppb.New(w.now)
	data, err := proto.Marshal(cmd)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	w.index++
	w.log = append(w.log, cmd)
	result, ok := w.fsm.Apply(&raft.Log{Index: w.index, Term: 1, Type: raft.LogCommand, Data: data}).(*raftfsm.Result)
	if !ok || w.fsm.Halted() != nil {
		w.t.Fatalf("the state machine halted: %v", w.fsm.Halted())
	}
	return result
}

// must applies a command that has to succeed.
func (w *world) must(cmd *raftv1.Command) {
	w.t.Helper()
	if r := w.apply(cmd); r.Err != nil {
		w.t.Fatalf("%T refused: %v", cmd.GetVerb(), r.Err)
	}
}

// command applies a command that may be refused.
func (w *world) command(cmd *raftv1.Command) error {
	if r := w.apply(cmd); r.Err != nil {
		return r.Err
	}
	return nil
}

func cancelRunning(w *world) *raftv1.Command {
	s, _ := w.fsm.View().Share("s")
	return &raftv1.Command{Verb: &raftv1.Command_CancelPromotion{CancelPromotion: &raftv1.CancelPromotion{ShareId: "s", OpId: s.GetFencing().GetOpId()}}}
}

func deleteOf(r *tarnv1.Replica) *raftv1.Command {
	return &raftv1.Command{Verb: &raftv1.Command_DeleteReplica{DeleteReplica: &raftv1.DeleteReplica{Id: r.GetId()}}}
}

func (w *world) addHost(name, zone string, class tarnv1.FenceClass) {
	w.hosts[name] = &simHost{w: w, id: name, session: "1", data: make(map[string]*simReplica)}
	w.order = append(w.order, name)
	w.must(&raftv1.Command{Verb: &raftv1.Command_RegisterHost{RegisterHost: &raftv1.RegisterHost{Host: &tarnv1.Host{
		Id: name, Name: name, AvailabilityZone: zone, Backend: "sim", Address: name + ":1", SessionId: "1", FenceClass: class,
		Pools: []*tarnv1.Pool{{
			Name: "p", ReplicationDomain: "d", TotalCapacityGib: 1000, FreeCapacityGib: 1000, Health: "ONLINE",
			ThinProvisioning: true, MaxOverSubscriptionRatio: 2,
			ReplicationTypes: []tarnv1.ReplicationType{tarnv1.ReplicationType_REPLICATION_TYPE_READABLE, tarnv1.ReplicationType_REPLICATION_TYPE_DR},
		}},
	}}}})
}

func (w *world) addShare(name, host, kind string, rpo time.Duration) {
	w.addShareFrom("", name, host, kind, rpo)
}

// addShareFrom takes a dataset over, or makes an empty share where from is none.
func (w *world) addShareFrom(from, name, host, kind string, rpo time.Duration) {
	specs := map[string]string{"driver_handles_share_servers": "false", "tarn:rpo": rpo.String()}
	if kind != "plain" {
		specs["replication_type"] = kind
	}
	typeName := kind + rpo.String() + fmt.Sprint(w.specs)
	maps.Copy(specs, w.specs)
	if _, ok := w.fsm.View().ShareTypeByName(typeName); !ok {
		w.must(&raftv1.Command{Verb: &raftv1.Command_PutShareType{PutShareType: &raftv1.PutShareType{
			ShareType: &tarnv1.ShareType{Id: "t-" + typeName, Name: typeName, ExtraSpecs: specs},
		}}})
	}
	size := int64(1)
	if from != "" {
		size = 0
	}
	w.must(&raftv1.Command{Verb: &raftv1.Command_CreateShare{CreateShare: &raftv1.CreateShare{
		Share: &tarnv1.Share{
			Id: name, Name: name, ProjectId: "p", SizeGib: size, ShareProto: "NFS", ShareTypeId: "t-" + typeName,
			SnapshotSupport: true, Rpo: durationOf(rpo),
		},
		Replica: &tarnv1.Replica{Id: name + "-" + host, HostId: host, Pool: "p", ManagedFrom: from},
	}}})
}

func (w *world) addReplica(share, host string) *raftfsm.Result {
	instances := make(map[string]string)
	for s := range w.fsm.View().SnapshotsOfShare(share) {
		instances[s.GetId()] = w.id()
	}
	return w.apply(&raftv1.Command{Verb: &raftv1.Command_CreateReplica{CreateReplica: &raftv1.CreateReplica{
		Replica: &tarnv1.Replica{Id: share + "-" + host, ShareId: share, HostId: host, Pool: "p"}, SnapshotInstanceIds: instances,
	}}})
}

func (w *world) addSnapshot(share, name string) *raftfsm.Result {
	instances := make(map[string]string)
	for _, r := range w.fsm.View().ReplicasOfShare(share) {
		instances[r.GetId()] = w.id()
	}
	return w.apply(&raftv1.Command{Verb: &raftv1.Command_CreateSnapshot{CreateSnapshot: &raftv1.CreateSnapshot{
		Snapshot: &tarnv1.Snapshot{Id: name, Name: name, ShareId: share}, InstanceIds: instances,
	}}})
}

func (w *world) promote(share, host, op string, mode tarnv1.PromotionMode, maxLoss time.Duration) *raftfsm.Result {
	s, _ := w.fsm.View().Share(share)
	consent := &tarnv1.Consent{}
	if maxLoss > 0 {
		consent.MaxLoss = durationOf(maxLoss)
	}
	return w.apply(&raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
		Id: w.replicaOn(share, host).GetId(), OpId: op, Mode: mode, Consent: consent,
		ExpectedEpoch: s.GetFencing().GetEpoch(), AllowOutOfSync: true, CatchUp: mode == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED,
	}}})
}

// attest has an operator say that the host of the running promotion's owner is off.
func (w *world) attest(share string) *raftfsm.Result {
	s, _ := w.fsm.View().Share(share)
	f := s.GetFencing()
	return w.apply(&raftv1.Command{Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{
		Id: f.GetTargetReplicaId(), OpId: f.GetOpId(), Mode: tarnv1.PromotionMode_PROMOTION_MODE_FORCED, Consent: f.GetConsent(),
		ExpectedEpoch: f.GetEpoch(), AllowOutOfSync: true, Attestation: "operator: looked",
	}}})
}

func (w *world) replicaOn(share, host string) *tarnv1.Replica {
	for _, r := range w.fsm.View().ReplicasOfShare(share) {
		if r.GetHostId() == host {
			return r
		}
	}
	return nil
}

// leader runs one round, as the loop does.
func (w *world) leader() int {
	view := w.fsm.View()
	commands := Step(w.policy, view, w.soft.Snapshot(w.now, w.leases), w.now, w.id)
	for _, cmd := range commands {
		w.apply(cmd)
	}
	return len(commands)
}

// run lets the world go on: leader and hosts act every tick.
func (w *world) run(d time.Duration) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(tick)
		for _, name := range w.order {
			w.hosts[name].act()
		}
		w.leader()
		w.check()
	}
}

// check holds the world to the laws.
func (w *world) check() {
	w.t.Helper()
	view := w.fsm.View()
	for s := range view.Shares() {
		owners := 0
		for _, r := range view.ReplicasOfShare(s.GetId()) {
			if s.GetReplicationType() != 0 && r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
				owners++
			}
		}
		if s.GetReplicationType() != 0 && owners != 1 {
			w.t.Fatalf("share %s has %d active replicas", s.GetId(), owners)
		}
		writers := 0
		for _, h := range w.hosts {
			writers += h.writers(s.GetId())
		}
		if writers > 1 {
			w.t.Fatalf("share %s can be written at %d places", s.GetId(), writers)
		}
	}
}

func TestWorldIsQuietWhenNothingHappens(t *testing.T) {
	w := newWorld(t)
	w.addHost("a", "z1", tarnv1.FenceClass_FENCE_CLASS_HELPER)
	w.addHost("b", "z2", tarnv1.FenceClass_FENCE_CLASS_HELPER)
	w.addShare("s", "a", "readable", 10*time.Second)
	w.run(2 * time.Second)
	w.addReplica("s", "b")
	w.run(10 * time.Second)
	before := len(w.log)
	w.run(10 * time.Minute)
	if n := len(w.log) - before; n != 0 {
		t.Errorf("%d log entries in ten idle minutes, want none; the last is %v", n, w.log[len(w.log)-1])
	}
	before = len(w.log)
	for range 10 * 60 {
		w.hosts["a"].data["s-a"].dirty = true
		w.run(time.Second)
	}
	if n := len(w.log) - before; n > 11 {
		t.Errorf("%d log entries in ten minutes of writing, want one a minute at most", n)
	}
}

// settles holds Step to asking once: commands that were applied are not asked for again.
func (w *world) settles() {
	w.t.Helper()
	for range 6 {
		if w.leader() == 0 {
			return
		}
	}
	commands := Step(w.policy, w.fsm.View(), w.soft.Snapshot(w.now, w.leases), w.now, w.id)
	w.t.Fatalf("Step goes on asking without news: %v", commands)
}
