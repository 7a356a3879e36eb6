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
