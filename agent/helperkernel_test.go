package agent

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// nfsMount mounts what the kernel's NFS server of this machine exports, as a client that
// believes nothing that it has not just been told. It is gone with the test.
func nfsMount(t *testing.T, path string) (at, said string, err error) {
	t.Helper()
	at = filepath.Join(t.TempDir(), "m")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "mount", "-t", "nfs", "-o", "vers=3,nolock,noac,lookupcache=none,soft,timeo=50,retrans=2", "127.0.0.1:"+path, at).CombinedOutput()
	if err == nil {
		t.Cleanup(func() {
			if out, err := exec.Command("umount", "-f", "-l", at).CombinedOutput(); err != nil {
				t.Errorf("umount: %v: %s", err, out)
			}
		})
	}
	return at, string(out), err
}

// An agent without any rights exports with the kernel's NFS server, through its helper: a
// client mounts and writes by a rule, is refused without, is put out when its rule goes, and
// reaches nothing when the agent was killed and its lease is over.
//
// It changes the machine's NFS server, and so runs in the virtual machine of test/vm.
func TestUnprivilegedAgentExportsByTheKernel(t *testing.T) {
	if os.Getenv("TARN_VM") == "" {
		t.Skip("changes the machine's NFS server: runs in the virtual machine of test/vm (make test-kernel)")
	}
	if out, err := exec.Command("nfs-up", "4").CombinedOutput(); err != nil {
		t.Fatalf("nfs-up: %v: %s", err, out)
	}
	p, ca := newPlane(), newCA(t)
	h, _ := newZFSHost(t, p, ca)
	h.cfg.Export = ExportConfig{Server: exportKernel, AnyPort: true}
	h.withHelper()
	share, replica := ids(t)
	revision := uint64(2)
	allow := func(client string) {
		revision++
		as := active(share, replica, 1)
		as.Pool = h.cfg.Pools[0].Name
		as.Exports.Revision, as.Exports.Squash = revision, tarnv1.Squash_SQUASH_NONE
		as.Exports.Rules = []*tarnv1.ExportRule{{AccessRuleId: "r", AccessTo: client, AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RW}}
		h.assign(as)
	}
	defer h.printLog()
	allow("127.0.0.1")
	agent := h.spawn(p.serve(t, ca))
	exported := func(r *tarnv1.ReplicaReport) bool {
		return writable(r) && r.GetAppliedAccessRevision() == revision && len(r.GetRuleErrors()) == 0
	}
	path := p.await(t, replica, "exported", exported).GetMountpoint()
	at, said, err := nfsMount(t, path)
	if err != nil {
		etab, _ := os.ReadFile("/var/lib/nfs/etab")
		t.Fatalf("%v: %s\n%s", err, said, etab)
	}
	eventually(t, "written over NFS", func() bool { return os.WriteFile(filepath.Join(at, "f"), []byte("over NFS"), 0o644) == nil })
	check(t, path, "f", "over NFS")

	allow("10.9.9.9")
	p.await(t, replica, "exported to somebody else", exported)
	if got, err := os.ReadFile(filepath.Join(at, "f")); err == nil {
		t.Errorf("what was mounted reads %q without a rule", got)
	}
	if _, _, err := nfsMount(t, path); err == nil {
		t.Error("mounted without a rule")
	}
	allow("127.0.0.1")
	p.await(t, replica, "exported again", exported)
	eventually(t, "read again", func() bool {
		got, err := os.ReadFile(filepath.Join(at, "f"))
		return err == nil && string(got) == "over NFS"
	})

	if err := agent.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "unmounted", func() bool { return !exists(filepath.Join(path, "f")) })
	if got, err := os.ReadFile(filepath.Join(at, "f")); err == nil {
		t.Errorf("read after the end of the lease: %q", got)
	}
	eventually(t, "exported no more", func() bool { // a server that is slow is told again
		etab, err := os.ReadFile("/var/lib/nfs/etab")
		return err == nil && !strings.Contains(string(etab), path)
	})
}
