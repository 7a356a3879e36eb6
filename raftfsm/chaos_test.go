package raftfsm

import (
	"bytes"
	"fmt"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// ids that random commands choose from: mostly existing things of busyWorld.
var chaosIDs = []string{
	"", "nope", "n1", "n2", "h1", "h2", "h3", "h4", "rep", "rep-r1", "rep-r2", "single", "single-r1", "new", "new-r1", "plain",
	"plain-r1", "busy", "busy-r1", "busy-r2", "lag", "lag-r1", "lag-r2", "snap", "young", "rule", "op", "op2", "t-readable", "t-dr", "t-writable",
	"t-", "p1", "u1", "tank", "dozer", "snap-single-r1", "young-single-r1", "i1", "i2", "i3", "ip", "10.0.0.1", "NFS", "readable",
}

// fieldIDs narrows some fields, so that random commands get past their first check.
var fieldIDs = map[protoreflect.Name][]string{
	"share_id":      {"rep", "single", "new", "plain", "busy", "lag", "n1", "n2"},
	"replica_id":    {"rep-r1", "rep-r2", "single-r1", "busy-r1", "busy-r2", "lag-r2", "n1", "n2"},
	"snapshot_id":   {"", "snap", "young", "n1", "n2"},
	"share_type_id": {"t-readable", "t-dr", "t-writable", "t-"},
	"host_id":       {"h1", "h2", "h3", "h4"},
	"pool":          {"tank", "dozer"},
	"project_id":    {"p1", "p2", ""},
	"managed_from":  {"", "", "tank/a", "dozer/a", "tank/taken"},
	"user_id":       {"u1", ""},
	"op_id":         {"op", "op2", "op3"},
	"access_type":   {"ip"},
	"name":          {"a", "b", "node1", "type dr", "tank"},
	"detail_id":     {"001", "002"},
	"cluster_id":    {"c1", "c2"},
	"hash":          {"k1", "k2"},
	"used_by":       {""},
}

var (
	shareIDs   = fieldIDs["share_id"]
	replicaIDs = fieldIDs["replica_id"]
	snapIDs    = []string{"snap", "young", "n1", "n2"}
)

// ownIDs are the values of a message's own id field.
var ownIDs = map[protoreflect.Name][]string{
	"Share": shareIDs, "UpdateShare": shareIDs, "DeleteShare": shareIDs, "UnmanageShare": shareIDs, "ResizeShare": shareIDs, "ResetShareStatus": shareIDs,
	"ShareTransition": shareIDs, "Replica": replicaIDs, "UpdateReplicaMetadata": replicaIDs, "DeleteReplica": replicaIDs, "UnmanageReplica": replicaIDs,
	"PromoteReplica": replicaIDs, "ResyncReplica": replicaIDs, "ResetReplicaStatus": replicaIDs, "ResetReplicaState": replicaIDs,
	"ReplicaTransition": replicaIDs, "Snapshot": snapIDs, "UpdateSnapshot": snapIDs, "DeleteSnapshot": snapIDs, "UnmanageSnapshot": snapIDs, "ResetSnapshotStatus": snapIDs,
	"AccessRule": {"rule", "n1"}, "UpdateAccess": {"rule", "n1"}, "DenyAccess": {"rule", "n1"},
	"Host": {"h1", "h3", "h4", "n1"}, "SetHostAdminState": {"h1", "h3", "n1"}, "RemoveHost": {"h3", "h4", "n1"}, "HostTransition": {"h1", "h3"},
	"UserMessage": {"n1", "n2"}, "DeleteMessage": {"n1", "n2"},
}

func choices(fd protoreflect.FieldDescriptor) []string {
	ids, ok := fieldIDs[fd.Name()]
	if own, has := ownIDs[fd.ContainingMessage().Name()]; has && fd.Name() == "id" {
		ids, ok = own, true
	}
	if !ok {
		return chaosIDs
	}
	return ids
}

// fill gives every field of a message a random value or none.
func fill(t *rapid.T, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if rapid.IntRange(0, 9).Draw(t, "leave "+string(fd.Name())) == 0 {
			continue
		}
		switch {
		case fd.IsMap():
			fillMap(t, m.Mutable(fd).Map(), fd)
		case fd.IsList():
			fillList(t, m.Mutable(fd).List(), fd, depth)
		case fd.Message() != nil:
			if depth < 4 {
				fill(t, m.Mutable(fd).Message(), depth+1)
			}
		default:
			m.Set(fd, scalar(t, fd))
		}
	}
}

func fillMap(t *rapid.T, m protoreflect.Map, fd protoreflect.FieldDescriptor) {
	keys := []string{"a", "b", "tarn:rpo", ""}
	switch fd.Name() {
	case "limits":
		keys = usageKeys[:]
	case "instance_ids", "snapshot_instance_ids":
		salt := fmt.Sprint(rapid.IntRange(0, 99).Draw(t, "salt"))
		for _, id := range chaosIDs {
			m.Set(protoreflect.ValueOfString(id).MapKey(), protoreflect.ValueOfString(id+salt))
		}
		return
	}
	for range rapid.IntRange(0, 3).Draw(t, "entries") {
		k := rapid.SampledFrom(keys).Draw(t, "key")
		m.Set(protoreflect.ValueOfString(k).MapKey(), scalar(t, fd.MapValue()))
	}
}

func fillList(t *rapid.T, l protoreflect.List, fd protoreflect.FieldDescriptor, depth int) {
	for range rapid.IntRange(0, 2).Draw(t, "items") {
		if fd.Message() == nil {
			l.Append(scalar(t, fd))
		} else if depth < 4 {
			e := l.NewElement()
			fill(t, e.Message(), depth+1)
			l.Append(e)
		}
	}
}

func scalar(t *rapid.T, fd protoreflect.FieldDescriptor) protoreflect.Value {
	n := rapid.Int64Range(-1, 6).Draw(t, string(fd.Name()))
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.SampledFrom(choices(fd)).Draw(t, string(fd.Name())))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte(n)})
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n > 2)
	case protoreflect.EnumKind:
		if fd.Enum().Name() == "Status" {
			n = rapid.SampledFrom([]int64{0, 1, 3, 3, 4, 5, 6, 7, 18, 19, 20, 21, 22}).Draw(t, "status")
		}
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n))
	}
	switch fd.Name() {
	case "expected_revision":
		n = 0
	case "version": // above ours a node halts by design
		n = min(n, CommandVersion)
	case "epoch", "expected_epoch":
		n = max(1, n-3)
	}
	return protoreflect.ValueOfUint64(uint64(max(n, 0)))
}

// randomVerb picks any verb but those that halt by design.
func randomVerb(t *rapid.T) *raftv1.Command {
	cmd := &raftv1.Command{}
	verbs := cmd.ProtoReflect().Descriptor().Oneofs().ByName("verb").Fields()
	fd := verbs.Get(rapid.IntRange(0, verbs.Len()-1).Draw(t, "verb"))
	if fd.Name() == "check_hash" {
		fd = verbs.ByName("transitions")
	}
	fill(t, cmd.ProtoReflect().Mutable(fd).Message(), 0)
	return cmd
}

// TestChaos throws random commands, most of them bad, at two machines, one of which is
// restored from a snapshot on the way. They stay equal byte for byte, every state keeps
// the invariants, and what is refused changes nothing.
func TestChaos(t *testing.T) {
	accepted := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		n := busyWorld(t)
		if rapid.Bool().Draw(t, "from a backup") {
			n.fromBackup()
		}
		other := restored(t, dump(t, n.f.View()))
		epochs := map[string]uint64{}
		for range rapid.IntRange(1, 40).Draw(t, "commands") {
			before := dumpRecords(t, n.f.View())
			cmd := randomVerb(t)
			res := n.f.Apply(n.entry(cmd)).(*Result)
			if n.f.Halted() != nil {
				t.Fatalf("halted: %v", n.f.Halted())
			}
			if res.Err != nil && !bytes.Equal(before, dumpRecords(t, n.f.View())) {
				t.Fatalf("refused with %v, but the state changed: %v", res.Err, cmd)
			}
			if res.Err == nil {
				accepted[string(cmd.ProtoReflect().WhichOneof(cmd.ProtoReflect().Descriptor().Oneofs().ByName("verb")).Name())]++
			}
			other.Apply(n.log[len(n.log)-1])
			checkInvariants(t, n.f.View())
			checkEpochs(t, n.f.View(), epochs)
		}
		if rapid.Bool().Draw(t, "restore") {
			other = restored(t, dump(t, other.View()))
		}
		if !bytes.Equal(dump(t, n.f.View()), dump(t, other.View())) {
			t.Fatalf("the machines came apart")
		}
		checkInvariants(t, other.View())
	})
	if len(accepted) < 20 {
		t.Errorf("only %d verbs were ever accepted, the test shows little: %v", len(accepted), accepted)
	}
}

// checkEpochs: no share's epoch ever falls.
func checkEpochs(t tb, v *View, seen map[string]uint64) {
	t.Helper()
	for s := range v.Shares() {
		if e := s.GetFencing().GetEpoch(); e < seen[s.GetId()] {
			t.Errorf("share %s fell from epoch %d to %d", s.GetId(), seen[s.GetId()], e)
		} else {
			seen[s.GetId()] = e
		}
	}
	for id := range seen {
		if _, ok := v.Share(id); !ok {
			delete(seen, id)
		}
	}
}
