package agent

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// nfs4 runs a program of libnfs on a file of a host's share. Its clock is 25 days ahead
// for what zfs-fuse cannot keep (agent/export, shiftedClock).
func nfs4(t *testing.T, h *host, path string, args ...string) (string, error) {
	t.Helper()
	addr, port, err := net.SplitHostPort(h.cfg.Export.Listen)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	args = append([]string{"--time", "--monotonic", "2200000"}, args...)
	out, err := exec.CommandContext(ctx, "unshare", append(args, "nfs://"+addr+path+"?version=4&nfsport="+port)...).Output()
	return string(out), err
}

// Exports of an agent without any rights: it asks its helper, which runs a NFS-Ganesha on a
// real pool. Clients get in by the rules, are put out by them, and by the dead-man when the
// agent is killed.
func TestUnprivilegedAgentExportsThroughItsHelper(t *testing.T) {
	p, ca := newPlane(), newCA(t)
	h, _ := newZFSHost(t, p, ca)
	for _, program := range []string{"ganesha.nfsd", "dbus-daemon", "nfs-cat", "nfs-cp", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("TARN_REQUIRE_ALL") == "1" {
				t.Fatal(err)
			}
			t.Skipf("skipped: %v", err)
		}
	}
	h.cfg.Export = ExportConfig{Server: exportGanesha, Listen: free(t), AnyPort: true}
	h.withHelper()
	share, replica := ids(t)
	as := active(share, replica, 1)
	as.Pool = h.cfg.Pools[0].Name
	as.Exports.Squash = tarnv1.Squash_SQUASH_NONE
	as.Exports.Rules = []*tarnv1.ExportRule{{AccessRuleId: "r", AccessTo: "127.0.0.1", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RW}}
	h.assign(as)
	defer h.printLog()
	agent := h.spawn(p.serve(t, ca))
	exported := func(revision uint64) func(*tarnv1.ReplicaReport) bool {
		return func(r *tarnv1.ReplicaReport) bool {
			return writable(r) && r.GetAppliedAccessRevision() == revision && len(r.GetRuleErrors()) == 0
		}
	}
	mountpoint := p.await(t, replica, "exported", exported(3)).GetMountpoint()
	put(t, h.dir, "local", "over NFS")
	eventually(t, "written over NFS", func() bool {
		_, err := nfs4(t, h, mountpoint+"/f", "nfs-cp", filepath.Join(h.dir, "local"))
		return err == nil
	})
	check(t, mountpoint, "f", "over NFS")

	readable := func() bool {
		got, err := nfs4(t, h, mountpoint+"/f", "nfs-cat")
		return err == nil && got == "over NFS"
	}
	none := active(share, replica, 1)
	none.Pool, none.Exports.Revision, none.Exports.Rules = as.GetPool(), 4, nil
	h.assign(none)
	p.await(t, replica, "exported to nobody", exported(4))
	if readable() {
		t.Error("read without a rule")
	}
	as.Exports.Revision = 5
	h.assign(as)
	p.await(t, replica, "exported again", exported(5))
	eventually(t, "read again", readable)

	if err := agent.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "unmounted", func() bool { return !exists(filepath.Join(mountpoint, "f")) })
	if readable() {
		t.Error("read after the end of the lease")
	}
}
