package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/cmd/tarn/dev"
	tarnv1 "tarn/proto/tarn/v1"
)

// The same story on real pools, whatever ZFS there is: a dataset of one of an agent's
// pools, and its copy by syncoid on the other, under the real programs.
func TestManageOnRealPools(t *testing.T) {
	if _, err := exec.LookPath("/usr/sbin/syncoid"); err != nil || os.Geteuid() != 0 {
		requireAllOfRoot(t, "needs root and syncoid (Debian: apt-get install sanoid)")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		requireAllOfRoot(t, "needs /dev/fuse for zfs-fuse")
	}
	c := start(t, dev.Options{Servers: 1, Agents: 2, Zones: 2, Storage: "zfs"})
	c.must("share-type", "create", "gold", "-e", "driver_handles_share_servers=false", "-e", "replication_type=readable", "-e", "tarn:rpo=10s")
	pools := strings.Fields(c.on("agent2", "zpool", "list", "-H", "-o", "name"))
	if len(pools) < 2 {
		t.Fatalf("agent2 has pools %v, want two", pools)
	}
	home, backup := pools[0]+"/home", pools[1]+"/backup"
	path := filepath.Join(t.TempDir(), "home")
	c.on("agent2", "zfs", "create", "-o", "quota=3G", "-o", "mountpoint="+path, home)
	c.writeOn("agent2", filepath.Join(path, "monday"))
	c.on("agent2", "zfs", "snapshot", home+"@monday")
	c.on("agent2", "syncoid", "--no-privilege-elevation", home, backup)
	guids := c.guidsOn("agent2", home, backup)

	c.must("share", "manage", home, "--host", "agent2", "--type", "gold", "--dry-run")
	c.must("share", "manage", home, "--host", "agent2", "--type", "gold", "--wait")
	c.must("replica", "create", "home", "--only-host", "agent2@zfs#"+pools[1], "--from-dataset", backup, "--wait")
	active, _ := c.twoReplicas("home", pools[1])
	if active.GetObserved().GetMountpoint() != path {
		t.Errorf("mounted at %s, was at %s", active.GetObserved().GetMountpoint(), path)
	}
	c.writeOn("agent2", filepath.Join(path, "tuesday"))
	_, copied := c.twoReplicas("home", pools[1])
	c.must("replica", "unmanage", copied.GetId(), "--wait")
	c.must("share", "unmanage", "home", "--wait")
	if after := c.guidsOn("agent2", home, backup); after != guids {
		t.Errorf("snapshots were\n%s\nare\n%s", guids, after)
	}
	if left := c.on("agent2", "zfs", "get", "-H", "-r", "-s", "local", "-o", "name,property", "all", home, backup); strings.Contains(left, "tarn:") {
		t.Errorf("left:\n%s", left)
	}
	if mounted := strings.TrimSpace(c.on("agent2", "zfs", "get", "-H", "-o", "value", "mounted", home)); mounted != "yes" {
		t.Errorf("given back, mounted is %s", mounted)
	}
	c.on("agent2", "ls", filepath.Join(path, "tuesday"))
}

func requireAllOfRoot(t *testing.T, reason string) {
	t.Helper()
	if os.Geteuid() == 0 {
		requireAll(t, reason)
	}
	t.Skip("SKIPPED: " + reason)
}

// on runs a program where a node's pools are.
func (c *cluster) on(node, program string, args ...string) string {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := c.Command(node, cmd); err != nil {
		c.t.Fatalf("%s: %s %s: %v\n%s%s", node, program, strings.Join(args, " "), err, out.String(), problems.String())
	}
	return out.String()
}

func (c *cluster) writeOn(node, path string) {
	c.t.Helper()
	seen, err := c.See(node, path)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(seen, []byte(path+"\n"), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// guidsOn lists the snapshots of datasets that are not tarn's.
func (c *cluster) guidsOn(node string, datasets ...string) string {
	c.t.Helper()
	var lines []string
	for _, ds := range datasets {
		for full := range strings.FieldsSeq(c.on(node, "zfs", "list", "-H", "-r", "-t", "snapshot", "-o", "name", "-s", "creation", ds)) {
			if !strings.Contains(full, "@tarn.") {
				lines = append(lines, full+" "+strings.TrimSpace(c.on(node, "zfs", "get", "-H", "-p", "-o", "value", "guid", full)))
			}
		}
	}
	return strings.Join(lines, "\n")
}

// twoReplicas waits until a share's replica on a pool is in_sync with the active one.
func (c *cluster) twoReplicas(share, pool string) (active, other *tarnv1.Replica) {
	c.t.Helper()
	c.eventually(time.Minute, "both replicas are well", func(ctx context.Context) error {
		answer, err := c.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{ShareId: c.shareID(share)})
		if err != nil {
			return err
		}
		for _, r := range answer.GetReplicas() {
			if r.GetPool() == pool {
				other = r
			} else {
				active = r
			}
		}
		return errors.Join(isWritable(active), isInSync(other))
	})
	return active, other
}
