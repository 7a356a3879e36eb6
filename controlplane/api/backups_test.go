package api

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestForsakenBackupsGiveTheStateFree: somebody began to read a backup and went away. The
// state of that moment is not kept until the next one begins, which may be never.
func TestForsakenBackupsGiveTheStateFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l downloads
		var ended atomic.Int32
		add := func() string {
			state := new([1 << 16]byte)
			d := &download{id: newID(), stop: func() { ended.Add(1) }, next: func() ([]byte, error, bool) { return state[:], nil, true }}
			l.add(d, time.Now())
			return d.id
		}
		forsaken, read := add(), add()
		for range 4 {
			time.Sleep(downloadLife / 2)
			synctest.Wait()
			if _, ok := l.find(read, time.Now()); !ok {
				t.Fatal("one that is read was given up")
			}
		}
		if _, ok := l.find(forsaken, time.Now()); ok || ended.Load() != 1 {
			t.Errorf("the forsaken one is there still: %v, %d ended", ok, ended.Load())
		}
		time.Sleep(2 * downloadLife)
		synctest.Wait()
		if _, ok := l.find(read, time.Now()); ok || ended.Load() != 2 {
			t.Errorf("the other one is there still: %v, %d ended", ok, ended.Load())
		}
	})
}
