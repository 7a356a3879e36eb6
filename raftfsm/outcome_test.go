package raftfsm

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// keyed is a command that an actor sends under a key.
func (n *node) keyed(actor, key string, verb any) *Result {
	n.t.Helper()
	cmd := wrap(n.t, verb)
	cmd.Actor, cmd.Audit = actor, &raftv1.AuditNote{}
	cmd.Key = &raftv1.RequestKey{Key: key, Digest: []byte("digest of " + key)}
	return n.f.Apply(n.entry(cmd)).(*Result)
}

func describe(id, text string) *raftv1.UpdateShare {
	return &raftv1.UpdateShare{Id: id, Description: &text}
}

// TestRepeatedCommandHasItsFirstOutcome: a caller whose answer was lost asks again, after
// somebody else has changed the same thing.
func TestRepeatedCommandHasItsFirstOutcome(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: KeyVersion})
	n.share("s", "readable")
	first := n.keyed("alice", "k", describe("s", "hers"))
	n.do(describe("s", "his"))
	before, records := dumpRecords(t, n.f.View()), len(slices.Collect(n.f.View().AuditRecords(0)))
	again := n.keyed("alice", "k", describe("s", "hers"))
	if !again.Repeated || again.Err != nil || again.Record != first.Record {
		t.Errorf("repeated: %+v, want %+v", again, first)
	}
	if !bytes.Equal(before, dumpRecords(t, n.f.View())) || n.getShare("s").GetDescription() != "his" {
		t.Errorf("the repetition changed the state: %v", n.getShare("s"))
	}
	if got := len(slices.Collect(n.f.View().AuditRecords(0))); got != records {
		t.Errorf("it has an audit record of its own")
	}
	n.f = restored(t, dump(t, n.f.View()))
	if again := n.keyed("alice", "k", describe("s", "hers")); !again.Repeated || !proto.Equal(again.Record, first.Record) {
		t.Errorf("after a restore: %+v", again)
	}
	if other := n.keyed("bob", "k", describe("s", "bob's")); other.Repeated || n.getShare("s").GetDescription() != "bob's" {
		t.Errorf("another's key of the same name: %+v", other)
	}
}

// TestRepeatedRefusalStays: a refusal that nobody heard is one also when the reason has
// gone; else an attempt that arrives late would do what its caller was told is not done.
func TestRepeatedRefusalStays(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: KeyVersion})
	first := n.keyed("alice", "k", describe("s", "early"))
	n.share("s", "readable")
	again := n.keyed("alice", "k", describe("s", "early"))
	if first.Err == nil || !again.Repeated || again.Err == nil || *again.Err != *first.Err || again.Err.Code != NotFound {
		t.Errorf("%+v, then %+v", first, again)
	}
	n.do(&raftv1.PutQuota{Limits: &tarnv1.QuotaLimits{ProjectId: "p1", Limits: map[string]int64{"shares": 1}}})
	first = n.keyed("alice", "q", newShare("t", "readable"))
	again = n.keyed("alice", "q", newShare("t", "readable"))
	if first.Err.Quota == nil || !proto.Equal(again.Err.Quota, first.Err.Quota) {
		t.Errorf("the quota that stood in the way: %+v, then %+v", first.Err, again.Err)
	}
}

// TestKeyIsOfOneRequest: its steps are apart, and another request under it is refused.
func TestKeyIsOfOneRequest(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: KeyVersion})
	n.share("s", "readable")
	n.keyed("alice", "k", describe("s", "one"))
	cmd := wrap(t, describe("s", "two"))
	cmd.Actor, cmd.Key = "alice", &raftv1.RequestKey{Key: "k", Digest: []byte("another")}
	res := n.f.Apply(n.entry(cmd)).(*Result)
	if res.Err == nil || res.Err.Code != InvalidArgument || res.Repeated || n.getShare("s").GetDescription() != "one" {
		t.Errorf("another request: %+v", res)
	}
	cmd = wrap(t, describe("s", "three"))
	cmd.Actor, cmd.Key = "alice", &raftv1.RequestKey{Key: "k", Step: 1, Digest: []byte("digest of k")}
	if res = n.f.Apply(n.entry(cmd)).(*Result); res.Err != nil || n.getShare("s").GetDescription() != "three" {
		t.Errorf("the next step: %+v", res)
	}
	if got, ok := n.f.View().Outcome("alice", cmd.GetKey()); !ok || !proto.Equal(got.Record, res.Record) {
		t.Errorf("asked for it: %+v", got)
	}
}

// TestKeysWaitForTheirVersion: nodes of older versions do the command twice, so a new
// one does it twice in their company.
func TestKeysWaitForTheirVersion(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: KeyVersion - 1})
	n.share("s", "readable")
	n.keyed("alice", "k", describe("s", "hers"))
	n.do(describe("s", "his"))
	if res := n.keyed("alice", "k", describe("s", "hers")); res.Repeated || n.getShare("s").GetDescription() != "hers" {
		t.Errorf("%+v", res)
	}
	if n.f.View().s.outcomes.len() != 0 {
		t.Error("outcomes are in a snapshot that older nodes cannot read")
	}
}

// TestForgottenOutcomeShowsInTheHash: a node that forgot what the others remember finds out.
func TestForgottenOutcomeShowsInTheHash(t *testing.T) {
	n := world(t)
	n.do(&raftv1.SetCommandVersion{Version: KeyVersion})
	n.share("s", "readable")
	n.keyed("alice", "k", describe("s", "hers"))
	forgetful := restored(t, dump(t, n.f.View()))
	tx := begin(forgetful.published.Load())
	tx.dropOutcome(&raftv1.KeptOutcome{Actor: "alice", Key: "k"})
	forgetful.published.Store(tx.s)
	n.keyed("alice", "k", describe("s", "hers"))
	forgetful.Apply(n.log[len(n.log)-1])
	if bytes.Equal(n.f.View().Hash(), forgetful.View().Hash()) {
		t.Error("one did it again and the other did not, and the hashes are equal")
	}
}

// TestRandomRepetitions: whatever is repeated, whenever and after whatever, changes
// nothing and has its first outcome; a node that was restored on the way agrees.
func TestRandomRepetitions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := busyWorld(t)
		n.do(&raftv1.SetCommandVersion{Version: KeyVersion})
		other := restored(t, dump(t, n.f.View()))
		var commands []*raftv1.Command
		var outcomes []*Result
		for range rapid.IntRange(1, 12).Draw(t, "commands") {
			if len(commands) > 0 && rapid.Bool().Draw(t, "repeat") {
				i := rapid.IntRange(0, len(commands)-1).Draw(t, "which")
				before := dumpRecords(t, n.f.View())
				got := n.f.Apply(n.entry(proto.CloneOf(commands[i]))).(*Result)
				if !got.Repeated || !sameOutcome(got, outcomes[i]) {
					t.Fatalf("repeated: %+v, first: %+v, of %v", got, outcomes[i], commands[i])
				}
				if !bytes.Equal(before, dumpRecords(t, n.f.View())) {
					t.Fatalf("the repetition changed the state: %v", commands[i])
				}
			} else {
				cmd := randomVerb(t)
				cmd.Actor = rapid.SampledFrom([]string{"alice", "bob"}).Draw(t, "actor")
				cmd.Key = &raftv1.RequestKey{Key: fmt.Sprint(len(commands)), Step: uint32(len(commands) % 2)}
				commands = append(commands, cmd)
				outcomes = append(outcomes, n.f.Apply(n.entry(cmd)).(*Result))
			}
			other.Apply(n.log[len(n.log)-1])
			if rapid.IntRange(0, 5).Draw(t, "restore") == 0 {
				other = restored(t, dump(t, other.View()))
			}
		}
		if !bytes.Equal(dump(t, n.f.View()), dump(t, other.View())) || n.f.View().s.outcomeBytes != other.View().s.outcomeBytes {
			t.Fatal("the machines came apart")
		}
	})
}

// TestEveryKindOfRecordIsKept: what the schema has a place for is put there and found.
func TestEveryKindOfRecordIsKept(t *testing.T) {
	kinds := new(raftv1.KeptOutcome).ProtoReflect().Descriptor().Oneofs().ByName("record").Fields()
	if kinds.Len() < 9 {
		t.Errorf("%d kinds", kinds.Len())
	}
	for i := range kinds.Len() {
		kept := new(raftv1.KeptOutcome)
		record := kept.ProtoReflect().NewField(kinds.Get(i)).Message().Interface()
		if putRecord(kept, record); recordOf(kept) != record {
			t.Errorf("%s: %v", kinds.Get(i).Name(), recordOf(kept))
		}
	}
}

// sameOutcome: secrets' records are not kept, as no caller may ask for them under a key.
func sameOutcome(a, b *Result) bool {
	if _, secret := b.Record.(*raftv1.JoinToken); secret {
		return a.Err == nil && a.Record == nil
	}
	if a.Err != nil && b.Err != nil {
		return a.Err.Code == b.Err.Code && a.Err.Field == b.Err.Field && a.Err.Message == b.Err.Message && proto.Equal(a.Err.Quota, b.Err.Quota)
	}
	return a.Err == nil && b.Err == nil && proto.Equal(a.Record, b.Record)
}

// TestOutcomesAreBounded: by number and age, for each actor and in all, oldest first.
func TestOutcomesAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bounds := outcomeBounds{life: 20 * time.Second, perActor: 4, total: 9, size: 700, batch: 10}
		s := newState()
		s.minVersion, s.lastTime = KeyVersion, epochStart
		var all []*raftv1.KeptOutcome
		for i := range rapid.IntRange(1, 40).Draw(t, "commands") {
			s.lastTime = s.lastTime.Add(time.Duration(rapid.IntRange(0, 12).Draw(t, "later")) * time.Second)
			cmd := &raftv1.Command{Actor: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "actor"), Key: &raftv1.RequestKey{Key: fmt.Sprint(i)}}
			refusal := refuse(NotFound, "", "%*d", rapid.IntRange(1, 60).Draw(t, "size"), i)
			s = s.keeping(uint64(i+1), cmd, nil, refusal, bounds)
			if _, ok := s.outcomeOf(cmd.GetActor(), cmd.GetKey()); !ok {
				t.Fatal("what was just done is forgotten")
			}
			all = append(all, &raftv1.KeptOutcome{Actor: cmd.GetActor(), Key: cmd.GetKey().GetKey()})
			checkOutcomes(t, s, bounds, all)
		}
	})
}

func checkOutcomes(t *rapid.T, s *state, bounds outcomeBounds, all []*raftv1.KeptOutcome) {
	size, count, last := 0, map[string]int{}, map[string]uint64{}
	for o := range s.outcomes.from(outcomeByIndex, &raftv1.KeptOutcome{}, func(*raftv1.KeptOutcome) bool { return true }) {
		size += proto.Size(o)
		if n := last[o.GetActor()]; n != 0 && o.GetNumber() != n+1 {
			t.Fatalf("after number %d of %s comes %d", n, o.GetActor(), o.GetNumber())
		}
		last[o.GetActor()] = o.GetNumber()
		count[o.GetActor()]++
		if age := s.lastTime.Sub(o.GetAt().AsTime()); age > bounds.life {
			t.Fatalf("an outcome is %s old", age)
		}
	}
	if size != s.outcomeBytes || size > bounds.size || s.outcomes.len() > bounds.total {
		t.Fatalf("%d bytes, counted as %d, of %d outcomes", size, s.outcomeBytes, s.outcomes.len())
	}
	for actor, n := range count {
		if n > bounds.perActor {
			t.Fatalf("%d outcomes of %s", n, actor)
		}
	}
	// What is remembered of an actor are its newest.
	for actor := range count {
		for i := len(all) - 1; i >= 0 && count[actor] > 0; i-- {
			if all[i].GetActor() != actor {
				continue
			}
			if _, ok := s.outcomes.get(all[i]); !ok {
				t.Fatalf("%s is forgotten before an older one", all[i].GetKey())
			}
			count[actor]--
		}
	}
}
