package replicate

import (
	"strings"
	"sync/atomic"
	"testing"
)

// TestMountThatDoesNotLast: a primary that somebody unmounts is mounted again, and never
// exported in between. Where no mount lasts, as beyond zfs-fuse's limit, that is told and
// tried ever more seldom.
func TestMountThatDoesNotLast(t *testing.T) {
	c, a, b := pair(t)
	a.write("one\n")
	c.until("in sync", inSync(a, b))
	var mounts, short atomic.Int32
	short.Store(3)
	a.mem.SetHooks(nil, func(_ int, op, object string) error {
		if op != "mount" || object != a.dataset() {
			return nil
		}
		mounts.Add(1)
		ds, _, _ := a.fs.Peek(object)
		if _, exported := a.exports.state(ds.Mountpoint); exported {
			t.Error("exported while nothing was mounted")
		}
		if short.Add(-1) < 0 {
			return nil
		}
		return a.fs.Unmount(t.Context(), object, false)
	})
	c.must(a.fs.Unmount(t.Context(), a.dataset(), false))
	c.until("told", func() bool { return strings.Contains(a.report().GetError().GetMessage(), "does not stay mounted") })
	c.until("mounted and exported again", func() bool {
		ds, _, _ := a.fs.Peek(a.dataset())
		_, exported := a.exports.state(ds.Mountpoint)
		return ds.Mounted && exported && a.report().GetError() == nil
	})
	if n := mounts.Load(); n != 4 {
		t.Errorf("mounted %d times", n)
	}
	a.write("two\n")
	c.until("in sync again", inSync(a, b))
}

// TestCopyThatIsUnmounted: a readable copy that somebody unmounts is not exported while
// nothing is mounted there, and is again when it is mounted again.
func TestCopyThatIsUnmounted(t *testing.T) {
	c, a, b := pair(t)
	a.write("one\n")
	c.until("in sync, and shown", func() bool { _, shown := b.exported(); return shown && inSync(a, b)() })
	var mounts atomic.Int32
	b.mem.SetHooks(nil, func(_ int, op, object string) error {
		if op != "mount" || object != b.dataset() {
			return nil
		}
		mounts.Add(1)
		if _, exported := b.exported(); exported {
			t.Error("exported while nothing was mounted")
		}
		return nil
	})
	c.must(b.fs.Unmount(t.Context(), b.dataset(), false))
	b.worker.Look() // as when the pool was listed: TestSurveyTellsWhatIsMounted
	a.write("two\n")
	c.until("in sync, mounted and shown again", func() bool {
		ds, _, _ := b.fs.Peek(b.dataset())
		_, exported := b.exported()
		return ds.Mounted && exported && mounts.Load() > 0 && inSync(a, b)()
	})
}
