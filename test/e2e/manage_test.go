package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/cmd/tarn/dev"
	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

// A dataset and its copy, made and replicated without tarn, become a share with a
// replica by two commands, follow each other by increments, and are given back with
// their names, their snapshots' GUIDs and nothing of tarn's.
func TestManage(t *testing.T) {
	c := start(t, dev.Options{Servers: 1, Agents: 2, Zones: 2})
	c.must("share-type", "create", "gold", "-e", "driver_handles_share_servers=false", "-e", "replication_type=readable", "-e", "tarn:rpo=10s", "-e", "snapshot_support=true")
	var before [2]map[string]zfs.GUID
	c.offline(func(one, two *dirzfs.Host, pools [2]string) {
		c.makeForeign(one, pools[0]+"/home")
		c.copyForeign(one, pools[0]+"/home", two, pools[1]+"/backup")
		before = [2]map[string]zfs.GUID{c.guids(one, pools[0]+"/home"), c.guids(two, pools[1]+"/backup")}
	})
	home, backup := c.firstPool(0)+"/home", c.firstPool(1)+"/backup"

	s := c.tarn("share", "manage", c.firstPool(0)+"/nothing", "--host", "agent1", "--type", "gold", "--name", "wrong", "--wait")
	if s.code != 1 || !strings.Contains(s.stderr, "does not exist on this host") || !strings.Contains(s.stderr, "next:") {
		t.Errorf("a dataset that is not there: exit code %d\n%s", s.code, s.stderr)
	}
	c.must("share", "unmanage", "wrong", "--wait")

	s = c.tarn("share", "manage", c.firstPool(0)+"/nothing", "--host", "agent1", "--type", "gold", "--dry-run")
	if s.code != codeRefused || !strings.Contains(s.stderr, "does not exist on this host") {
		t.Errorf("looking at a dataset that is not there: exit code %d\n%s", s.code, s.stderr)
	}
	if out := c.must("share", "manage", home, "--host", "agent1", "--type", "gold", "--dry-run"); !strings.Contains(out, "5 GiB") ||
		!strings.Contains(out, "2, the newest tuesday") {
		t.Errorf("would be\n%s", out)
	}
	c.must("share", "manage", home, "--host", "agent1", "--type", "gold", "--wait")
	if s := c.tarn("share", "unmanage", "home/"); s.code != 3 {
		t.Errorf("a share that is not there: exit code %d\n%s", s.code, s.stderr)
	}
	c.must("snapshot", "manage", "home", "monday", "--wait")
	if s := c.tarn("share", "unmanage", "home"); s.code != codeRefused || !strings.Contains(s.stderr, "has snapshots") {
		t.Errorf("unmanage with a snapshot: exit code %d\n%s", s.code, s.stderr)
	}
	c.must("snapshot", "unmanage", "monday", "--wait")
	c.must("access", "allow", "home", "127.0.0.0/8")
	out := c.must("replica", "create", "home", "--only-host", "agent2#"+c.firstPool(1), "--from-dataset", backup, "--dry-run")
	if !strings.Contains(out, "goes on       at once") {
		t.Errorf("would be\n%s", out)
	}
	c.must("replica", "create", "home", "--only-host", "agent2#"+c.firstPool(1), "--from-dataset", backup, "--wait")
	active := c.replicaAt(c.shareID("home"), "az1", isWritable)
	if active.GetManagedFrom() != home {
		t.Errorf("active replica is %v", active)
	}
	c.writeInto(active.GetObserved().GetMountpoint(), "after")
	c.eventually(30*time.Second, "the copy has what was written", func(context.Context) error {
		r := c.replicaAt(c.shareID("home"), "az2", isInSync)
		_, err := os.Stat(filepath.Join(r.GetObserved().GetMountpoint(), "after"))
		return err
	})
	if s := c.tarn("share", "unmanage", "home"); s.code != codeRefused || !strings.Contains(s.stderr, "has replicas") {
		t.Errorf("unmanage with a replica: exit code %d\n%s", s.code, s.stderr)
	}
	if out := c.must("replica", "unmanage", "home/az2", "--wait"); !strings.Contains(out, "given back as "+backup) {
		t.Errorf("said %q", out)
	}
	if out := c.must("share", "unmanage", "home", "--wait"); !strings.Contains(out, "given back as "+home) {
		t.Errorf("said %q", out)
	}
	c.offline(func(one, two *dirzfs.Host, _ [2]string) {
		c.asItWas(one, home, before[0], "after")
		c.asItWas(two, backup, before[1], "after")
	})
}

// firstPool is the name of an agent's first pool.
func (c *cluster) firstPool(agent int) string {
	return filepath.Base(c.poolDirs(fmt.Sprint("agent", agent+1))[0])
}

// offline opens the first pools of both agents while these are stopped.
func (c *cluster) offline(do func(one, two *dirzfs.Host, pools [2]string)) {
	c.t.Helper()
	var hosts [2]*dirzfs.Host
	var pools [2]string
	for i := range hosts {
		agent := fmt.Sprint("agent", i+1)
		if err := c.Terminate(c.t.Context(), agent); err != nil {
			c.t.Fatal(err)
		}
		dir := c.poolDirs(agent)[0]
		pools[i] = filepath.Base(dir)
		h, err := dirzfs.Open(dirzfs.Config{Pools: []dirzfs.Pool{{Name: pools[i], Dir: dir, Capacity: 100 << 30}}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			c.t.Fatal(err)
		}
		hosts[i] = h
	}
	do(hosts[0], hosts[1], pools)
	for i, h := range hosts {
		if err := h.Close(); err != nil {
			c.t.Fatal(err)
		}
		if err := c.Start(fmt.Sprint("agent", i+1)); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := c.Ready(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) writeInto(dir, name string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(name+"\n"), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) check(errs ...error) {
	c.t.Helper()
	for _, err := range errs {
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) makeForeign(h *dirzfs.Host, name string) {
	c.t.Helper()
	ctx := c.t.Context()
	c.check(h.Create(ctx, name, map[string]string{zfs.PropQuota: fmt.Sprint(5 << 30)}, false), h.Mount(ctx, name))
	ds, err := h.Dataset(ctx, name)
	c.check(err)
	for _, day := range []string{"monday", "tuesday"} {
		c.writeInto(ds.Mountpoint, day)
		c.check(h.Snapshot(ctx, name+"@"+day))
	}
	c.check(h.Hold(ctx, "keep", name+"@monday"))
}

func (c *cluster) copyForeign(from *dirzfs.Host, name string, to *dirzfs.Host, as string) {
	c.t.Helper()
	for _, req := range []zfs.SendRequest{{Dataset: name, To: "monday"}, {Dataset: name, To: "tuesday", From: "@monday"}} {
		s, err := from.Send(c.t.Context(), req)
		c.check(err)
		c.check(to.Receive(c.t.Context(), zfs.ReceiveRequest{Target: as + "@" + req.To}, s), s.Close())
	}
}

func (c *cluster) guids(h *dirzfs.Host, name string) map[string]zfs.GUID {
	c.t.Helper()
	versions, err := h.Versions(c.t.Context(), name)
	c.check(err)
	out := map[string]zfs.GUID{}
	for _, v := range versions {
		out[v.Name] = v.GUID
	}
	return out
}

// asItWas checks a dataset that was given back.
func (c *cluster) asItWas(h *dirzfs.Host, name string, before map[string]zfs.GUID, file string) {
	c.t.Helper()
	ctx := c.t.Context()
	ds, err := h.Dataset(ctx, name)
	c.check(err)
	for mark := range ds.User {
		c.t.Errorf("%s still carries %s", name, mark)
	}
	after := c.guids(h, name)
	for snapshot, guid := range before {
		if after[snapshot] != guid {
			c.t.Errorf("%s@%s had GUID %s, has %s", name, snapshot, guid, after[snapshot])
		}
	}
	for snapshot := range after {
		holds, err := h.Holds(ctx, name+"@"+snapshot)
		c.check(err)
		for _, hold := range holds {
			if hold.Tag != "keep" {
				c.t.Errorf("%s is held by %s", hold.Snapshot, hold.Tag)
			}
		}
	}
	c.check(h.Mount(ctx, name))
	if ds, err = h.Dataset(ctx, name); err != nil {
		c.t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(ds.Mountpoint, file)); err != nil {
		c.t.Error(err)
	}
	if list, err := h.Datasets(ctx, strings.Split(name, "/")[0]+"/tarn"); err == nil && len(list) > 1 {
		c.t.Errorf("tarn still has %v", list)
	}
}

func (c *cluster) shareID(name string) string {
	c.t.Helper()
	return strings.TrimSpace(c.must("share", "list", "--name", name, "-q"))
}
