package replicate

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// haltingStorage sends the beginning of a stream, and then nothing more for ever.
type haltingStorage struct {
	*hookedStorage
	halts atomic.Bool
}

func (h *haltingStorage) Send(ctx context.Context, req zfs.SendRequest) (zfs.Stream, error) {
	s, err := h.hookedStorage.Send(ctx, req)
	if err != nil || !h.halts.Load() {
		return s, err
	}
	return &haltingStream{Stream: s, ctx: ctx, left: 100 << 10}, nil
}

type haltingStream struct {
	zfs.Stream
	ctx  context.Context
	left int
}

func (h *haltingStream) Read(b []byte) (int, error) {
	if h.left == 0 {
		<-h.ctx.Done()
		return 0, h.ctx.Err()
	}
	n := min(len(b), h.left)
	h.left -= n
	return n, nil
}

// TestFailedReceiveIsToldAtOnce: what stopped the receiver has nothing to do with its
// source, and does not wait for it.
func TestFailedReceiveIsToldAtOnce(t *testing.T) {
	c, a, b := pairOn(t, func(t *testing.T, i int) testStorage {
		return &haltingStorage{hookedStorage: onHookedDirectory(t, i).(*hookedStorage)}
	})
	c.until("in sync", inSync(a, b))
	var began atomic.Pointer[time.Time]
	b.fs.(*haltingStorage).SetHooks(func(_ int, op, _ string) error {
		if op != "receive" {
			return nil
		}
		began.CompareAndSwap(nil, new(time.Now()))
		return &zfs.Error{Op: op, Class: zfs.ErrNoSpace, Text: "full"}
	}, nil)
	a.fs.(*haltingStorage).halts.Store(true)
	a.write("too much\n")
	c.until("the error is told", func() bool {
		return b.report().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE
	})
	// The stream itself would have been given up after 20 s.
	if took := time.Since(*began.Load()); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	a.fs.(*haltingStorage).halts.Store(false)
	b.fs.(*haltingStorage).SetHooks(nil, nil)
	c.until("in sync once there is space", inSync(a, b))
}
