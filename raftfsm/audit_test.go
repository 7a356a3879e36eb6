package raftfsm

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// noted applies a command that carries a note for the audit log.
func (n *node) noted(verb any, note *raftv1.AuditNote) *Result {
	n.t.Helper()
	cmd := wrap(n.t, verb)
	cmd.Audit, cmd.Actor, cmd.RequestId = note, "spiffe://c/operator/1", "req"
	return n.f.Apply(n.entry(cmd)).(*Result)
}

func records(v *View) []*tarnv1.AuditRecord { return slices.Collect(v.AuditRecords(0)) }

func TestAuditRecordsAnswerWhoWhatAndWhichEpoch(t *testing.T) {
	n := world(t)
	n.replicated("s", "readable")
	n.try(&raftv1.DeleteMessage{Id: "no note, no record"})
	n.noted(&raftv1.PromoteReplica{Id: "s-r2", OpId: "op", Mode: planned, ExpectedEpoch: 1}, &raftv1.AuditNote{ObjectId: "s-r2", OpId: "op", Reason: "maintenance"})
	n.noted(&raftv1.CancelPromotion{ShareId: "s", OpId: "op"}, &raftv1.AuditNote{ObjectId: "s"})
	n.noted(&raftv1.DeleteShare{Id: "nope"}, &raftv1.AuditNote{ObjectId: "nope", ProjectId: "p"})
	got := records(n.f.View())
	if len(got) != 3 {
		t.Fatalf("%d records, want 3: %v", len(got), got)
	}
	promote, cancel, refused := got[0], got[1], got[2]
	if promote.GetAction() != "promote_replica" || promote.GetShareId() != "s" || promote.GetOldEpoch() != 1 || promote.GetResult() != "done" ||
		promote.GetActor() != "spiffe://c/operator/1" || promote.GetReason() != "maintenance" || promote.GetOpId() != "op" || promote.GetIndex() != n.index()-2 {
		t.Errorf("promotion: %v", promote)
	}
	if cancel.GetOldEpoch() != 1 || cancel.GetNewEpoch() != 2 {
		t.Errorf("a cancelled promotion raises the epoch: %v", cancel)
	}
	if refused.GetResult() != "not found" || refused.GetMessage() == "" || refused.GetProjectId() != "p" {
		t.Errorf("refusal: %v", refused)
	}
	checkChain(t, n.f.View())
}

func checkChain(t tb, v *View) {
	t.Helper()
	var before *tarnv1.AuditRecord
	for r := range v.AuditRecords(0) {
		if err := FollowsAudit(before, r); err != nil {
			t.Errorf("%v", err)
		}
		before = r
	}
	if before.GetSeq() != v.AuditHead().GetSeq() {
		t.Errorf("head is %d, last record %d", v.AuditHead().GetSeq(), before.GetSeq())
	}
}

func TestAuditIsBoundedAndSurvivesASnapshot(t *testing.T) {
	n := newNode(t)
	for i := range maxAudit + 5 {
		n.noted(&raftv1.DeleteMessage{Id: fmt.Sprint(i)}, &raftv1.AuditNote{ObjectId: fmt.Sprint(i)})
	}
	v := n.f.View()
	got := records(v)
	if len(got) != maxAudit || got[0].GetSeq() != 6 || v.AuditHead().GetSeq() != maxAudit+5 {
		t.Fatalf("%d records from %d to %d", len(got), got[0].GetSeq(), v.AuditHead().GetSeq())
	}
	checkChain(t, v)
	again := restored(t, dump(t, v))
	if !bytes.Equal(dump(t, again.View()), dump(t, v)) {
		t.Error("the audit log does not survive a round trip")
	}
	if len(slices.Collect(v.AuditRecords(maxAudit))) != 5 {
		t.Error("records after a number")
	}
}

// TestAuditTamperingIsSeen changes, removes and swaps records: each is found, by the
// verification and by Restore.
func TestAuditTamperingIsSeen(t *testing.T) {
	n := newNode(t)
	for i := range 4 {
		n.noted(&raftv1.DeleteMessage{Id: "x"}, &raftv1.AuditNote{ObjectId: fmt.Sprint(i), Reason: "because"})
	}
	good := records(n.f.View())
	for name, tamper := range map[string]func(r []*tarnv1.AuditRecord) []*tarnv1.AuditRecord{
		"actor":     func(r []*tarnv1.AuditRecord) []*tarnv1.AuditRecord { r[1].Actor = "somebody else"; return r },
		"reason":    func(r []*tarnv1.AuditRecord) []*tarnv1.AuditRecord { r[3].Reason = ""; return r },
		"moved":     func(r []*tarnv1.AuditRecord) []*tarnv1.AuditRecord { r[1].ObjectId, r[1].ShareId = "", "1"; return r },
		"taken out": func(r []*tarnv1.AuditRecord) []*tarnv1.AuditRecord { return slices.Delete(r, 1, 2) },
		"rehashed": func(r []*tarnv1.AuditRecord) []*tarnv1.AuditRecord {
			r[1].Actor = "x"
			r[1].Hash = AuditHash(r[1])
			return r
		},
		"renumbered": func(r []*tarnv1.AuditRecord) []*tarnv1.AuditRecord {
			r = slices.Delete(r, 1, 2)
			r[1].Seq = 2
			r[1].Hash = AuditHash(r[1])
			return r
		},
	} {
		bad := make([]*tarnv1.AuditRecord, len(good))
		for i, r := range good {
			bad[i] = proto.CloneOf(r)
		}
		bad = tamper(bad)
		var seen error
		msgs := []proto.Message{&raftv1.SnapshotHeader{Format: snapshotFormat, Hash: make([]byte, 32)}}
		for i, r := range bad {
			var before *tarnv1.AuditRecord
			if i > 0 {
				before = bad[i-1]
			}
			seen = errors.Join(seen, FollowsAudit(before, r))
			msgs = append(msgs, &raftv1.SnapshotRecord{Record: &raftv1.SnapshotRecord_AuditRecord{AuditRecord: r}})
		}
		if !errors.Is(seen, ErrAudit) {
			t.Errorf("%s: not seen: %v", name, seen)
		}
		if err := New(Config{}).Restore(readCloser(framed(t, msgs...))); !errors.Is(err, ErrAudit) || !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: restored: %v", name, err)
		}
	}
}

// TestAuditHashCoversEveryField: a field that is added to the record must be hashed.
func TestAuditHashCoversEveryField(t *testing.T) {
	full := &tarnv1.AuditRecord{}
	fields := full.ProtoReflect().Descriptor().Fields()
	base := string(AuditHash(full))
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Name() == "hash" {
			continue
		}
		r := &tarnv1.AuditRecord{}
		m := r.ProtoReflect()
		switch {
		case f.Message() != nil:
			r.At = epochProto()
		case f.Kind().String() == "string":
			m.Set(f, protoText("x"))
		case f.Kind().String() == "bytes":
			m.Set(f, protoBytes("x"))
		default:
			m.Set(f, protoNumber(7))
		}
		if string(AuditHash(r)) == base {
			t.Errorf("field %s is not hashed", f.Name())
		}
	}
}

func epochProto() *timestamppb.Timestamp      { return timestamppb.New(epochStart) }
func protoText(s string) protoreflect.Value   { return protoreflect.ValueOfString(s) }
func protoBytes(s string) protoreflect.Value  { return protoreflect.ValueOfBytes([]byte(s)) }
func protoNumber(n uint64) protoreflect.Value { return protoreflect.ValueOfUint64(n) }
