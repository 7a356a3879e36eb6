package replicate

import (
	"sync"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// TestFullPoolIsToldUntilThereIsSpace: a retry that has begun has not yet mended
// anything. The error stays told while it runs, and the pauses between retries grow.
func TestFullPoolIsToldUntilThereIsSpace(t *testing.T) {
	c, a, b := pair(t)
	c.until("in sync", inSync(a, b))
	var mu sync.Mutex
	tries, silent := 0, 0
	b.mem.SetHooks(func(_ int, op, _ string) error {
		if op != "receive" {
			return nil
		}
		told := b.report().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE
		mu.Lock()
		defer mu.Unlock()
		tries++
		if tries > 1 && !told {
			silent++
		}
		return &zfs.Error{Op: op, Class: zfs.ErrNoSpace, Text: "full"}
	}, nil)
	a.write("too much\n")
	c.until("tried several times", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return tries >= 5
	})
	mu.Lock()
	if silent > 0 {
		t.Errorf("%d of %d retries began with nothing told", silent, tries)
	}
	mu.Unlock()
	b.mem.SetHooks(nil, nil)
	c.until("in sync once there is space", inSync(a, b))
	c.until("nothing is told any more", func() bool { return b.report().GetError() == nil })
}

// TestFullSourceIsTold: when the active replica's snapshots fail its followers fall
// behind, and only its own report can say why.
func TestFullSourceIsTold(t *testing.T) {
	c, a, b := pair(t)
	c.until("in sync", inSync(a, b))
	a.mem.SetHooks(func(_ int, op, _ string) error {
		if op == "snapshot" {
			return &zfs.Error{Op: op, Class: zfs.ErrNoSpace, Text: "full"}
		}
		return nil
	}, nil)
	a.write("too much\n")
	c.until("the owner tells", func() bool {
		e := a.report().GetError()
		return e.GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE && e.GetRetrying() && e.GetSince().AsTime().Unix() > 0
	})
	if !a.report().GetWritable() {
		t.Error("an owner that cannot snapshot stopped serving")
	}
	a.mem.SetHooks(nil, nil)
	c.until("in sync once there is space", inSync(a, b))
	c.until("nothing is told any more", func() bool { return a.report().GetError() == nil })
}
