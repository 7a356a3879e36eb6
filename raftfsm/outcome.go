package raftfsm

import (
	"bytes"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// A caller that got no answer asks again under the same key, and must not have its
// change made twice, nor be told a refusal that only its first attempt explains. So the
// state remembers what each key came to, for a while.

// outcomeBounds limit what is remembered. The oldest goes first, and all that is removed
// is removed by the command that made it too much: equal logs leave equal memories.
type outcomeBounds struct {
	// life is by the log's clock; whoever asks again later is a new request.
	life time.Duration
	// perActor and total count outcomes, size is in encoded bytes.
	perActor, total, size int
	// batch bounds the removals of one command.
	batch int
}

// keptOutcomes outlasts the patience of every caller of tarn many times over. One actor
// may make 500 changes a second for 30 s before its oldest ones are forgotten.
func keptOutcomes() outcomeBounds {
	return outcomeBounds{life: 10 * time.Minute, perActor: 16384, total: 65536, size: 32 << 20, batch: 128}
}

// Indexes of the table of outcomes.
const (
	outcomeByIndex = 1
	outcomeByActor = 2
)

func outcomeLess(a, b *raftv1.KeptOutcome) bool {
	switch {
	case a.GetActor() != b.GetActor():
		return a.GetActor() < b.GetActor()
	case a.GetKey() != b.GetKey():
		return a.GetKey() < b.GetKey()
	}
	return a.GetStep() < b.GetStep()
}

func newOutcomes(own *token) *table[raftv1.KeptOutcome] {
	return newTable(own,
		index[raftv1.KeptOutcome]{less: outcomeLess},
		index[raftv1.KeptOutcome]{less: func(a, b *raftv1.KeptOutcome) bool { return a.GetIndex() < b.GetIndex() }},
		index[raftv1.KeptOutcome]{less: func(a, b *raftv1.KeptOutcome) bool {
			if a.GetActor() != b.GetActor() {
				return a.GetActor() < b.GetActor()
			}
			return a.GetNumber() < b.GetNumber()
		}})
}

// Outcome is what a command under the key came to, if it was applied and is still
// remembered. A key of another request is refused.
func (v *View) Outcome(actor string, key *raftv1.RequestKey) (*Result, bool) {
	return v.s.outcomeOf(actor, key)
}

func (s *state) outcomeOf(actor string, key *raftv1.RequestKey) (*Result, bool) {
	if key.GetKey() == "" || s.minVersion < KeyVersion {
		return nil, false
	}
	kept, ok := s.outcomes.get(&raftv1.KeptOutcome{Actor: actor, Key: key.GetKey(), Step: key.GetStep()})
	if !ok {
		return nil, false
	}
	if !bytes.Equal(kept.GetDigest(), key.GetDigest()) {
		return &Result{Err: refuse(InvalidArgument, "", "the idempotency key %s was used for another request; make a new key for each", key.GetKey())}, true
	}
	res := &Result{Repeated: true}
	if no := kept.GetRefusal(); no != nil {
		res.Err = &Error{Code: Code(no.GetCode()), Field: no.GetField(), Message: no.GetMessage(), Quota: no.GetQuota()}
		return res, true
	}
	res.Record = recordOf(kept)
	return res, true
}

// keeping returns the state with the outcome of a command remembered, if it has a key.
func (s *state) keeping(index uint64, cmd *raftv1.Command, record proto.Message, refusal *Error, bounds outcomeBounds) *state {
	key := cmd.GetKey()
	if key.GetKey() == "" || s.minVersion < KeyVersion {
		return s
	}
	kept := &raftv1.KeptOutcome{
		Actor: cmd.GetActor(), Key: key.GetKey(), Step: key.GetStep(), Digest: key.GetDigest(),
		Index: index, At: timestamppb.New(s.lastTime), Number: s.lastOutcome(cmd.GetActor()) + 1,
	}
	if refusal != nil {
		kept.Refusal = &raftv1.Refusal{Code: uint32(refusal.Code), Field: refusal.Field, Message: refusal.Message, Quota: refusal.Quota}
	} else {
		putRecord(kept, record)
	}
	tx := begin(s)
	tx.putOutcome(kept)
	tx.forgetOutcomes(kept.GetActor(), bounds)
	return tx.s
}

func (tx *txn) putOutcome(kept *raftv1.KeptOutcome) {
	mutable(tx.own, &tx.s.outcomes).put(kept)
	tx.s.outcomeBytes += proto.Size(kept)
}

func (tx *txn) dropOutcome(kept *raftv1.KeptOutcome) {
	mutable(tx.own, &tx.s.outcomes).remove(kept)
	tx.s.outcomeBytes -= proto.Size(kept)
}

// forgetOutcomes removes the oldest outcomes of one actor, and of all, that are beyond
// the bounds. Both orders are that of the log, so an actor's numbers stay without a gap.
func (tx *txn) forgetOutcomes(actor string, bounds outcomeBounds) {
	since := timestamppb.New(tx.s.lastTime.Add(-bounds.life))
	for range bounds.batch {
		oldest, ok := first(tx.s.outcomes.from(outcomeByIndex, &raftv1.KeptOutcome{}, func(*raftv1.KeptOutcome) bool { return true }))
		over := tx.s.outcomes.len() > bounds.total || tx.s.outcomeBytes > bounds.size
		if ok && !over && compareTime(oldest.GetAt(), since) >= 0 {
			oldest, ok = tx.s.firstOutcome(actor)
			over = ok && tx.s.lastOutcome(actor)-oldest.GetNumber() >= uint64(bounds.perActor)
			ok = over
		}
		if !ok {
			return
		}
		tx.dropOutcome(oldest)
	}
}

func (s *state) firstOutcome(actor string) (*raftv1.KeptOutcome, bool) {
	return first(s.outcomes.from(outcomeByActor, &raftv1.KeptOutcome{Actor: actor}, func(o *raftv1.KeptOutcome) bool { return o.GetActor() == actor }))
}

// lastOutcome is the number of an actor's newest outcome; 0 if none is remembered.
func (s *state) lastOutcome(actor string) (number uint64) {
	s.outcomes.trees[outcomeByActor].DescendLessOrEqual(&raftv1.KeptOutcome{Actor: actor, Number: ^uint64(0)}, func(o *raftv1.KeptOutcome) bool {
		if o.GetActor() == actor {
			number = o.GetNumber()
		}
		return false
	})
	return number
}

// putRecord keeps a record as the state has it: immutable, so it is not copied.
func putRecord(o *raftv1.KeptOutcome, record proto.Message) {
	switch r := record.(type) {
	case *tarnv1.ShareType:
		o.Record = &raftv1.KeptOutcome_ShareType{ShareType: r}
	case *tarnv1.Share:
		o.Record = &raftv1.KeptOutcome_Share{Share: r}
	case *tarnv1.Replica:
		o.Record = &raftv1.KeptOutcome_Replica{Replica: r}
	case *tarnv1.Snapshot:
		o.Record = &raftv1.KeptOutcome_Snapshot{Snapshot: r}
	case *tarnv1.AccessRule:
		o.Record = &raftv1.KeptOutcome_AccessRule{AccessRule: r}
	case *tarnv1.QuotaLimits:
		o.Record = &raftv1.KeptOutcome_QuotaLimits{QuotaLimits: r}
	case *tarnv1.Host:
		o.Record = &raftv1.KeptOutcome_Host{Host: r}
	case *tarnv1.PurgeOrder:
		o.Record = &raftv1.KeptOutcome_PurgeOrder{PurgeOrder: r}
	case *tarnv1.User:
		o.Record = &raftv1.KeptOutcome_User{User: r}
	}
}

// recordOf is what putRecord kept; nil for a verb that answers nothing.
func recordOf(o *raftv1.KeptOutcome) proto.Message {
	m := o.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("record"))
	if field == nil {
		return nil
	}
	return m.Get(field).Message().Interface()
}
