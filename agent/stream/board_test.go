package stream

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/zfs"
)

func head(replica string, guid int, asOf time.Time, dirty int64, peers ...string) Head {
	return Head{Share: "s", Replica: replica, Epoch: 1, GUID: zfs.GUID(guid), AsOf: asOf, Dirty: dirty, Peers: peers}
}

func TestBoardTellsOnlyWhatChanged(t *testing.T) {
	b, now := NewBoard(), time.Now()
	b.Publish(head("r1", 1, now, 0, "p"), head("r2", 2, now.Add(-time.Minute), 0, "p"), head("r3", 3, now, 5, "p"), head("other", 4, now, 0, "q"))
	first, news, _ := b.answer("p", headsBody{}, now)
	if !news || !first.Full || len(first.Heads) != 3 {
		t.Fatalf("first answer %+v", first)
	}
	req := headsBody{Boot: first.Boot, Since: first.Generation}
	quiet, news, changed := b.answer("p", req, now)
	if news || quiet.Full {
		t.Fatalf("news without any: %+v", quiet)
	}
	// r1 is told by the common age; r2 is much older and r3 dirty: both by name.
	if len(quiet.Heads) != 2 || quiet.CommonAge != 0 {
		t.Errorf("quiet answer %+v", quiet)
	}
	b.Publish(head("r1", 1, now, 7, "p"))
	select {
	case <-changed:
		t.Error("dirty bytes woke the followers")
	default:
	}
	b.Publish(head("r1", 9, now, 0, "p"))
	<-changed
	a, news, _ := b.answer("p", req, now)
	if !news || a.Full {
		t.Errorf("after a new snapshot: %+v", a)
	}
	b.Withdraw("r2")
	a, _, _ = b.answer("p", headsBody{Boot: a.Boot, Since: a.Generation}, now)
	if !a.Full || len(a.Heads) != 2 {
		t.Errorf("after a loss: %+v", a)
	}
	if a, news, _ = b.answer("p", headsBody{Boot: a.Boot, Since: a.Generation}, now); a.Full || news {
		t.Errorf("a loss is told again and again: %+v", a)
	}
	if a, _, _ = NewBoard().answer("p", req, now); !a.Full {
		t.Error("another board answered in part")
	}
}

// TestAgesAreNeverTooSmall: whatever is left out of an answer, the common age is at
// least its own.
func TestAgesAreNeverTooSmall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, now := NewBoard(), time.Now()
		ages := map[string]time.Duration{}
		for _, r := range []string{"a", "b", "c", "d", "e"} {
			age := time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "age"))
			ages[r] = age
			b.Publish(head(r, 1, now.Add(-age), rapid.Int64Range(-1, 1).Draw(t, "dirty"), "p"))
		}
		a, _, _ := b.answer("p", headsBody{}, now)
		a, _, _ = b.answer("p", headsBody{Boot: a.Boot, Since: a.Generation}, now)
		for _, h := range a.Heads {
			if time.Duration(h.Age) != ages[h.Replica] {
				t.Fatalf("%s told as %v", h.Replica, time.Duration(h.Age))
			}
			delete(ages, h.Replica)
		}
		for r, age := range ages {
			if age > time.Duration(a.CommonAge) {
				t.Fatalf("%s is %v old, told as %v", r, age, time.Duration(a.CommonAge))
			}
		}
	})
}

func TestFollowingKeepsWhatItKnew(t *testing.T) {
	now := time.Now()
	fo := &Following{}
	if !fo.update(Seen{GUID: 1, AsOf: now}, true, true, time.Time{}) {
		t.Error("a first snapshot is no news")
	}
	if fo.update(Seen{GUID: 1, AsOf: now.Add(-time.Second)}, true, false, time.Time{}) {
		t.Error("the same snapshot is news")
	}
	if s, ok := fo.Seen(); !ok || !s.AsOf.Equal(now) {
		t.Errorf("went back to %v", s.AsOf)
	}
	fo.update(Seen{}, false, false, now.Add(time.Second))
	if s, _ := fo.Seen(); !s.AsOf.Equal(now.Add(time.Second)) {
		t.Errorf("common age was not taken: %v", s.AsOf)
	}
	fo.update(Seen{}, false, true, time.Time{})
	if _, ok := fo.Seen(); ok {
		t.Error("a source that is gone is still believed")
	}
}
