package raftfsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// maxAudit bounds the records in the state; older ones are on the nodes' disks.
const maxAudit = 10_000

// auditDone is the result of a command that was applied.
const auditDone = "done"

// ErrAudit is wrapped when audit records do not follow from each other: some were
// changed, taken out or put in.
var ErrAudit = errors.New("audit chain is broken")

func auditLess(a, b *tarnv1.AuditRecord) bool { return a.GetSeq() < b.GetSeq() }

// audited appends the record of a command to the state that the command left behind.
// The record is part of the same entry: neither exists without the other.
func (s *state) audited(before *state, index uint64, cmd *raftv1.Command, refusal *Error) *state {
	note := cmd.GetAudit()
	if note == nil {
		return s
	}
	rec := &tarnv1.AuditRecord{
		Seq: 1, At: timestamppb.New(s.lastTime), Index: index,
		Actor: cmd.GetActor(), RequestId: cmd.GetRequestId(), Action: verbName(cmd),
		ProjectId: note.GetProjectId(), ObjectId: note.GetObjectId(), OpId: note.GetOpId(),
		Reason: note.GetReason(), Details: note.GetDetails(), Result: auditDone,
		PrevHash: make([]byte, sha256.Size),
	}
	if refusal != nil {
		rec.Result, rec.Message = refusal.Code.String(), refusal.Error()
	}
	rec.ShareId, rec.OldEpoch = before.epochOf(note.GetObjectId())
	if share, epoch := s.epochOf(note.GetObjectId()); share != "" {
		rec.ShareId, rec.NewEpoch = share, epoch
	}
	if last, ok := s.lastAudit(); ok {
		rec.Seq, rec.PrevHash = last.GetSeq()+1, last.GetHash()
	}
	rec.Hash = AuditHash(rec)
	tx := begin(s)
	t := mutable(tx.own, &tx.s.audit)
	t.put(rec)
	if t.len() > maxAudit {
		oldest, _ := first(t.all())
		t.remove(oldest)
	}
	return tx.s
}

func (s *state) lastAudit() (*tarnv1.AuditRecord, bool) { return s.audit.trees[0].Max() }

// epochOf finds the share that an id means or belongs to, and its epoch.
func (s *state) epochOf(id string) (share string, epoch uint64) {
	if r, ok := s.replica(id); ok {
		id = r.GetShareId()
	} else if snap, ok := s.snapshot(id); ok {
		id = snap.GetShareId()
	} else if rule, ok := s.rule(id); ok {
		id = rule.GetShareId()
	}
	if sh, ok := s.share(id); ok {
		return id, sh.GetFencing().GetEpoch()
	}
	return "", 0
}

// verbName is the name of the command's verb, as in promote_replica.
func verbName(cmd *raftv1.Command) string {
	m := cmd.ProtoReflect()
	if field := m.WhichOneof(m.Descriptor().Oneofs().ByName("verb")); field != nil {
		return string(field.Name())
	}
	return ""
}

// AuditHash is the SHA-256 over the previous record's hash and every field of r but
// its own hash, each after its length.
func AuditHash(r *tarnv1.AuditRecord) []byte {
	h := sha256.New()
	field := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	number := func(n uint64) { field(binary.BigEndian.AppendUint64(nil, n)) }
	field(r.GetPrevHash())
	number(r.GetSeq())
	number(uint64(r.GetAt().GetSeconds()))
	number(uint64(r.GetAt().GetNanos()))
	for _, text := range []string{
		r.GetActor(), r.GetProjectId(), r.GetAction(), r.GetObjectId(), r.GetShareId(), r.GetRequestId(), r.GetOpId(),
		r.GetResult(), r.GetMessage(), r.GetReason(), r.GetDetails(),
	} {
		field([]byte(text))
	}
	number(r.GetOldEpoch())
	number(r.GetNewEpoch())
	number(r.GetIndex())
	return h.Sum(nil)
}

// FollowsAudit tells whether next is unchanged since it was made and comes right
// after prev; prev may be nil, then only next itself is checked. Errors wrap ErrAudit.
func FollowsAudit(prev, next *tarnv1.AuditRecord) error {
	if !bytes.Equal(next.GetHash(), AuditHash(next)) {
		return fmt.Errorf("record %d was changed: %w", next.GetSeq(), ErrAudit)
	}
	if prev == nil {
		return nil
	}
	if next.GetSeq() != prev.GetSeq()+1 {
		return fmt.Errorf("record %d follows record %d: %w", next.GetSeq(), prev.GetSeq(), ErrAudit)
	}
	if !bytes.Equal(next.GetPrevHash(), prev.GetHash()) {
		return fmt.Errorf("record %d does not know the hash of the one before it: %w", next.GetSeq(), ErrAudit)
	}
	return nil
}

// AuditRecords yields the records after a number, oldest first. Of those that the
// state has let go there is nothing.
func (v *View) AuditRecords(after uint64) iter.Seq[*tarnv1.AuditRecord] {
	return v.s.audit.from(0, &tarnv1.AuditRecord{Seq: after + 1}, func(*tarnv1.AuditRecord) bool { return true })
}

// AuditHead returns the newest record; nil if there is none.
func (v *View) AuditHead() *tarnv1.AuditRecord {
	head, _ := v.s.lastAudit()
	return head
}
