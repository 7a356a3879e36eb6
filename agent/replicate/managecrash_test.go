package replicate

import (
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// TestCrashesOfATakeover kills the process at every storage operation of taking a
// dataset over, and of giving it back.
func TestCrashesOfATakeover(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: every crash point takes a run of its own")
	}
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			c := newCluster(t, 1)
			a := c.hosts[0]
			a.foreign(foreignName)
			before := a.portrait(foreignName)
			a.lease.set(1)
			a.assign(manages(a.active(1), foreignName))
			dead := a.dieAt(n, after)
			a.start()
			writable := func() bool { return a.report().GetWritable() }
			c.recover(a, dead.Load, writable)
			c.until("taken over", writable)
			if got, _ := a.fs.Read(a.dataset()); got != "day 0\nday 1\nday 2\n" {
				t.Fatalf("crash at %d: %q", n, got)
			}
			if ds, _, _ := a.fs.Peek(a.dataset()); ds.Mountpoint != "/"+foreignName {
				t.Fatalf("crash at %d: mounted at %s", n, ds.Mountpoint)
			}
			a.lease.set(0)
			a.assign(manages(a.assignment(tarnv1.Role_ROLE_RELEASING, 1), foreignName))
			c.until("given back", func() bool { return a.report().GetGone() })
			if now := a.portrait(foreignName); now != before {
				t.Fatalf("crash at %d: was\n%s\nis\n%s", n, before, now)
			}
			a.kill()
			if !dead.Load() {
				t.Logf("after=%v: %d crash points", after, n-1)
				break
			}
		}
	}
}

func TestCrashesOfGivingBack(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: every crash point takes a run of its own")
	}
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			c := newCluster(t, 2)
			a, b := c.hosts[0], c.hosts[1]
			a.foreign(foreignName)
			before := a.portrait(foreignName)
			a.lease.set(1)
			a.assign(manages(a.active(1), foreignName))
			b.assign(b.secondary(1, a))
			a.start()
			b.start()
			c.until("in sync", inSync(a, b)) // so that there are holds
			b.kill()
			a.lease.set(0)
			dead := a.dieAt(n, after)
			a.assign(manages(a.assignment(tarnv1.Role_ROLE_RELEASING, 1), foreignName))
			gone := func() bool { return a.report().GetGone() }
			c.recover(a, dead.Load, gone)
			c.until("given back", gone)
			if now := a.portrait(foreignName); now != before {
				t.Fatalf("crash at %d: was\n%s\nis\n%s", n, before, now)
			}
			a.kill()
			if !dead.Load() {
				t.Logf("after=%v: %d crash points", after, n-1)
				break
			}
		}
	}
}

// TestCrashesOfACopysTakeover does the same to a copy with data of its own.
func TestCrashesOfACopysTakeover(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: every crash point takes a run of its own")
	}
	for _, after := range []bool{false, true} {
		for n := 1; ; n += 2 {
			c := newCluster(t, 2)
			a, b := c.hosts[0], c.hosts[1]
			a.foreign(foreignName)
			a.replicate(foreignName, b, backupName, "daily-0", "daily-1")
			c.must(b.fs.Set(t.Context(), backupName, map[string]string{zfs.PropReadOnly: off}))
			c.must(b.fs.Mount(t.Context(), backupName))
			c.must(b.fs.Write(backupName, "its own\n", false))
			c.must(b.fs.Snapshot(t.Context(), backupName+"@own"))
			a.lease.set(1)
			a.assign(manages(a.active(1), foreignName))
			a.start()
			c.until("active is writable", func() bool { return a.report().GetWritable() })
			b.assign(manages(b.secondary(1, a), backupName))
			dead := b.dieAt(n, after)
			b.start()
			c.recover(b, dead.Load, inSync(a, b))
			c.until("copy follows", inSync(a, b))
			c.until("copy recorded", func() bool { return len(b.report().GetDivergentCopies()) == 1 })
			if got, _ := b.fs.Read(b.report().GetDivergentCopies()[0].GetDataset()); got != "day 0\nday 1\nits own\n" || b.heard("full") > 0 {
				t.Fatalf("crash at %d: %q aside, steps %v", n, got, b.steps)
			}
			b.clean()
			a.kill()
			b.kill()
			if !dead.Load() {
				t.Logf("after=%v: %d crash points", after, n/2)
				break
			}
		}
	}
}
