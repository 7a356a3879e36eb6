package replicate

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/assignment"
	"tarn/controlplane/observe"
	"tarn/controlplane/reconcile"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// The control plane of the model is the product's: raftfsm, reconcile, observe and
// assignment. Each question is put to them once and the answer remembered, so that
// millions of states cost thousands of calls. States of the state machine, commands,
// assignments and reports are numbers in the model's state; 0 is none.

const (
	modelSnapshot = "snap"
	// modelTick is one unit of the model's time.
	modelTick = time.Second
)

var hostNames = [2]string{"a", "b"} // and of their replicas

// numbered gives equal values the same number, from 1 on.
type numbered[T any] struct {
	byKey map[string]uint16
	all   []T
}

func (n *numbered[T]) number(key string, value func() T) uint16 {
	if n.byKey == nil {
		n.byKey = map[string]uint16{}
	}
	id, known := n.byKey[key]
	if !known {
		n.all = append(n.all, value())
		id = uint16(len(n.all))
		n.byKey[key] = id
	}
	return id
}

func (n *numbered[T]) get(id uint16) T { return n.all[id-1] }

// decided is one state of the state machine.
type decided struct {
	view    *raftfsm.View
	data    []byte
	fencing *tarnv1.Fencing
	// fenced, by host: the assignment of its replica.
	assigned [2]uint16
	// acked: the user's snapshot is available, with this GUID, on these hosts.
	acked   uint8
	ackedOn [2]bool
}

// control is the replicated state machine with the leader's decisions.
type control struct {
	rules       *rules
	states      numbered[*decided]
	commands    numbered[*raftv1.Command]
	assignments numbered[*tarnv1.Assignment]
	reports     numbered[*tarnv1.ReplicaReport]

	applied  map[[2]uint16]uint16
	planned  map[planKey][]uint16
	entitled map[entitledKey]bool
	broken   error // the first law that a command broke
}

type planKey struct {
	state   uint16
	heard   [2]uint16
	since   uint8
	granted [2]uint8
}

type entitledKey struct {
	state uint16
	host  uint8
	epoch uint8
}

func newControl(r *rules) *control {
	return &control{rules: r, applied: map[[2]uint16]uint16{}, planned: map[planKey][]uint16{}, entitled: map[entitledKey]bool{}}
}

func command(verb any) *raftv1.Command {
	cmd := &raftv1.Command{ProposedAt: timestamppb.New(modelTime), ProposerTerm: 1, Version: 1}
	m := verb.(proto.Message).ProtoReflect()
	fields := cmd.ProtoReflect().Descriptor().Oneofs().ByName("verb").Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.Message() == m.Descriptor() {
			cmd.ProtoReflect().Set(f, protoreflect.ValueOfMessage(m))
			return cmd
		}
	}
	panic(fmt.Sprintf("%T is no verb", verb))
}

// apply puts one command through a state machine.
func applyTo(f *raftfsm.FSM, cmd *raftv1.Command) *raftfsm.Result {
	data, err := proto.Marshal(cmd)
	if err != nil {
		panic(err)
	}
	result, ok := f.Apply(&raft.Log{Index: f.View().Index() + 1, Term: 1, Type: raft.LogCommand, Data: data}).(*raftfsm.Result)
	if !ok || f.Halted() != nil {
		panic(fmt.Sprintf("the state machine halted: %v", f.Halted()))
	}
	return result
}

// first makes the state in which every run begins: a share with an active replica on
// host a and one in sync on host b.
func (c *control) first(kind string, class tarnv1.FenceClass, apart bool) uint16 {
	f := raftfsm.New(raftfsm.Config{})
	must := func(verb any) {
		if r := applyTo(f, command(verb)); r.Err != nil || r.Dropped > 0 {
			panic(fmt.Sprintf("%T: %v, dropped %d", verb, r.Err, r.Dropped))
		}
	}
	must(&raftv1.InitCluster{ClusterId: "model"})
	must(&raftv1.SetCommandVersion{Version: c.rules.version})
	for i, h := range hostNames {
		must(&raftv1.RegisterHost{Host: &tarnv1.Host{
			Id: h, Name: h, AvailabilityZone: fmt.Sprint("z", i), Backend: "m", Address: h + ":1", SessionId: "1", FenceClass: class,
			Pools: []*tarnv1.Pool{{Name: modelPool, ReplicationDomain: "d", TotalCapacityGib: 100, FreeCapacityGib: 100}},
		}})
	}
	must(&raftv1.PutShareType{ShareType: &tarnv1.ShareType{Id: "t", Name: "t", ExtraSpecs: map[string]string{"replication_type": kind}}})
	must(&raftv1.CreateShare{
		Share:   &tarnv1.Share{Id: modelShare, ProjectId: "p", SizeGib: 1, ShareProto: "NFS", ShareTypeId: "t", SnapshotSupport: true},
		Replica: &tarnv1.Replica{Id: hostNames[0], HostId: hostNames[0], Pool: modelPool},
	})
	available := func(t *raftv1.ReplicaTransition) {
		t.Status, t.HeadGuid = tarnv1.Status_STATUS_AVAILABLE, proto.Uint64(1)
		must(&raftv1.Transitions{Replicas: []*raftv1.ReplicaTransition{t}})
	}
	available(&raftv1.ReplicaTransition{Id: hostNames[0]})
	must(&raftv1.CreateReplica{Replica: &tarnv1.Replica{Id: hostNames[1], ShareId: modelShare, HostId: hostNames[1], Pool: modelPool}})
	state := tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC
	if apart {
		state = tarnv1.ReplicaState_REPLICA_STATE_OUT_OF_SYNC
	}
	available(&raftv1.ReplicaTransition{Id: hostNames[1], ReplicaState: state})
	return c.state(f.View())
}

// state numbers a state of the state machine by what can matter to a promotion.
func (c *control) state(v *raftfsm.View) uint16 {
	return c.states.number(canonical(v), func() *decided { return c.decide(v) })
}

func canonical(v *raftfsm.View) string {
	var b bytes.Buffer
	put := func(m proto.Message) {
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(&b, "%d:%s", len(data), data)
	}
	s, _ := v.Share(modelShare)
	put(s.GetFencing())
	for _, r := range v.ReplicasOfShare(modelShare) {
		put(&tarnv1.Replica{Id: r.GetId(), Status: r.GetStatus(), ReplicaState: r.GetReplicaState(), HeadGuid: r.GetHeadGuid()})
	}
	if snap, ok := v.Snapshot(modelSnapshot); ok {
		put(&tarnv1.Snapshot{Id: snap.GetId(), Guid: snap.GetGuid()})
		for _, r := range hostNames {
			i, _ := v.InstanceOn(modelSnapshot, r)
			put(&tarnv1.SnapshotInstance{Status: i.GetStatus()})
		}
	}
	return b.String()
}

func (c *control) decide(v *raftfsm.View) *decided {
	var data bytes.Buffer
	if _, err := v.WriteTo(&data); err != nil {
		panic(err)
	}
	s, _ := v.Share(modelShare)
	d := &decided{view: v, data: data.Bytes(), fencing: s.GetFencing()}
	for i, h := range hostNames {
		list, _ := assignment.ForHost(v, h)
		d.assigned[i] = c.assignment(list[0])
	}
	if snap, ok := v.Snapshot(modelSnapshot); ok && v.SnapshotStatus(snap) == tarnv1.Status_STATUS_AVAILABLE {
		d.acked = uint8(snap.GetGuid())
	}
	for i, h := range hostNames {
		if inst, ok := v.InstanceOn(modelSnapshot, h); ok {
			d.ackedOn[i] = inst.GetStatus() == tarnv1.Status_STATUS_AVAILABLE
		}
	}
	return d
}

func (c *control) assignment(a *tarnv1.Assignment) uint16 {
	plain := proto.CloneOf(a)
	plain.SizeGib = 0 // nor are quotas
	if plain.Exports != nil {
		plain.Exports.Revision = 0 // which rules hold is no part of the model
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(plain)
	if err != nil {
		panic(err)
	}
	return c.assignments.number(string(data), func() *tarnv1.Assignment { return plain })
}

func (c *control) command(cmd *raftv1.Command) uint16 {
	cmd.ProposedAt, cmd.ProposerTerm, cmd.Version = timestamppb.New(modelTime), 1, 1
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(cmd)
	if err != nil {
		panic(err)
	}
	return c.commands.number(string(data), func() *raftv1.Command { return cmd })
}

func (c *control) report(r *tarnv1.ReplicaReport) uint16 {
	plain := &tarnv1.ReplicaReport{
		ReplicaId: r.GetReplicaId(), ShareId: r.GetShareId(), HeadGuid: r.GetHeadGuid(), HeadCreatedAt: r.GetHeadCreatedAt(),
		DemoteAck: r.GetDemoteAck(), SealAck: r.GetSealAck(), DirtyBytes: -1, LagBytes: -1,
	}
	if len(r.GetSnapshots()) > 0 {
		plain.Snapshots, plain.ObservedEpoch = r.GetSnapshots(), r.GetObservedEpoch()
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(plain)
	if err != nil {
		panic(err)
	}
	return c.reports.number(string(data), func() *tarnv1.ReplicaReport { return plain })
}

// apply returns the state after a command; the same one if it was refused.
func (c *control) apply(state, cmd uint16) uint16 {
	key := [2]uint16{state, cmd}
	if next, known := c.applied[key]; known {
		return next
	}
	f := raftfsm.New(raftfsm.Config{})
	if err := f.Restore(io.NopCloser(bytes.NewReader(c.states.get(state).data))); err != nil {
		panic(err)
	}
	was := c.states.get(state)
	for _, forged := range c.rules.forge(was, c.commands.get(cmd)) {
		applyTo(f, forged)
	}
	first := applyTo(f, c.commands.get(cmd))
	next := c.state(f.View())
	second := applyTo(f, c.commands.get(cmd))
	c.judge(was, c.states.get(next), c.commands.get(cmd))
	if again := c.state(f.View()); again != next || first.Err == nil && second.Err != nil {
		c.breaks("I10 Idempotent: %v applied twice: %v", c.commands.get(cmd), second.Err)
	}
	c.applied[key] = next
	return next
}

func (c *control) breaks(format string, args ...any) {
	if c.broken == nil {
		c.broken = fmt.Errorf(format, args...)
	}
}

// judge holds one step of the state machine to I2, I3, I5 and I6.
func (c *control) judge(was, is *decided, cmd *raftv1.Command) {
	from, to := was.fencing, is.fencing
	if to.GetEpoch() < from.GetEpoch() {
		c.breaks("I2 EpochMonotone: epoch %d after %d", to.GetEpoch(), from.GetEpoch())
	}
	if to.GetOwnerReplicaId() == from.GetOwnerReplicaId() {
		return
	}
	if from.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED || to.GetEpoch() != from.GetEpoch()+1 {
		c.breaks("I3 ProofBeforeActive: epoch %d begins without a proof for %d, by %v", to.GetEpoch(), from.GetEpoch(), cmd)
	}
	base := to.GetLineage()[len(to.GetLineage())-1].GetBaseGuid()
	if from.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED && (from.GetFinalGuid() == 0 || base != from.GetFinalGuid()) {
		c.breaks("I6 PlannedZeroLoss: epoch %d starts from %d, the owner ended with %d", to.GetEpoch(), base, from.GetFinalGuid())
	}
}

// step asks the leader what it would do next.
func (c *control) step(key planKey) []uint16 {
	if list, known := c.planned[key]; known {
		return list
	}
	soft, err := observe.New(observe.Config{})
	if err != nil {
		panic(err)
	}
	now, leases := modelTime.Add(time.Hour), observe.NewLeases()
	soft.Lead(now.Add(-time.Duration(key.since) * modelTick))
	leases.Lead(now.Add(-time.Duration(key.since) * modelTick))
	for i, h := range hostNames {
		if key.heard[i] != 0 {
			soft.Report(&tarnv1.ReportRequest{
				HostId: h, SessionId: "1", Sequence: 1, Full: true, FenceClass: tarnv1.FenceClass_FENCE_CLASS_HELPER,
				Replicas: []*tarnv1.ReplicaReport{c.reports.get(key.heard[i])},
			}, now)
		}
		leases.Grant(h, now.Add(-time.Duration(key.granted[i])*modelTick))
	}
	view := c.states.get(key.state).view
	policy := reconcile.DefaultPolicy()
	policy.LeaseWait = time.Duration(c.rules.leaseWait) * modelTick
	ids := 0
	var list []uint16
	for _, cmd := range reconcile.Step(policy, view, soft.Snapshot(now, leases), modelTime, func() string { ids++; return fmt.Sprint("id", ids) }) {
		if cmd = promotionPart(cmd); cmd != nil {
			c.rules.edit(c.states.get(key.state), cmd)
			list = append(list, c.command(cmd))
		}
	}
	for _, cmd := range c.rules.leader(c.states.get(key.state)) {
		list = append(list, c.command(cmd))
	}
	list = slices.Compact(list)
	c.planned[key] = list
	return list
}

// promotionPart leaves away what is told of hosts, sizes, exports and the like.
func promotionPart(cmd *raftv1.Command) *raftv1.Command {
	t := cmd.GetTransitions()
	if t == nil {
		return cmd
	}
	if len(t.GetSnapshots()) == 0 {
		return nil
	}
	return command(&raftv1.Transitions{Snapshots: t.GetSnapshots()})
}

// mayHold asks if a host would be granted a lease under a state.
func (c *control) mayHold(state uint16, host int, epoch uint8) bool {
	key := entitledKey{state, uint8(host), epoch}
	granted, known := c.entitled[key]
	if !known {
		list, _ := c.rules.entitled(c.states.get(state).view, hostNames[host], []*tarnv1.LeaseShare{{
			ShareId: modelShare, ReplicaId: hostNames[host], Epoch: uint64(epoch),
		}})
		granted = len(list) == 1
		c.entitled[key] = granted
	}
	return granted
}
