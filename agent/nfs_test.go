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

// nfsCopy is libnfs copying a local file to a share of a host.
func nfsCopy(ctx context.Context, t *testing.T, h *host, local, to string) *exec.Cmd {
	t.Helper()
	host, port, err := net.SplitHostPort(h.cfg.Export.Listen)
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(ctx, "nfs-cp", local, "nfs://"+host+to+"?version=3&nfsport="+port+"&mountport="+port)
}

// The embedded server lives in the agent. When that is stopped in the middle of a
// client's writes and goes on after the end of its lease, it confirms nothing more.
func TestStoppedAgentConfirmsNoWritesOverNFS(t *testing.T) {
	if _, err := exec.LookPath("nfs-cp"); err != nil {
		if os.Getenv("TARN_REQUIRE_ALL") == "1" {
			t.Fatal("nfs-cp is missing and nothing may be skipped")
		}
		t.Skip("nfs-cp is not installed (Debian package libnfs-utils)")
	}
	p, ca := newPlane(), newCA(t)
	h := newHost(t, p, ca, "a")
	h.cfg.Export = ExportConfig{Server: exportEmbedded, Listen: free(t), AnyPort: true}
	share, replica := ids(t)
	as := active(share, replica, 1)
	as.Exports.Squash = tarnv1.Squash_SQUASH_NONE
	as.Exports.Rules = []*tarnv1.ExportRule{{AccessRuleId: "r", AccessTo: "127.0.0.1", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RW}}
	h.assign(as)
	agent := h.spawn(p.serve(t, ca))
	defer h.printLog()
	mountpoint := p.await(t, replica, "writable", writable).GetMountpoint()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	small, large := filepath.Join(h.dir, "small"), filepath.Join(h.dir, "large")
	put(t, h.dir, "small", "data")
	put(t, h.dir, "large", "")
	if err := os.Truncate(large, 1<<30); err != nil {
		t.Fatal(err)
	}
	eventually(t, "written over NFS", func() bool {
		return nfsCopy(ctx, t, h, small, mountpoint+"/first").Run() == nil
	})
	check(t, mountpoint, "first", "data")

	writing := nfsCopy(ctx, t, h, large, mountpoint+"/large")
	if err := writing.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "being written", func() bool {
		info, err := os.Stat(filepath.Join(mountpoint, "large"))
		return err == nil && info.Size() > 0
	})
	if err := agent.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.update(func() { p.noLeases = true })
	eventually(t, "fenced", func() bool { return !exists(mountpoint) })
	if err := agent.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := writing.Wait(); err == nil {
		t.Error("a gigabyte was confirmed by an agent without a lease")
	}
	if ctx.Err() != nil {
		t.Error("the client was not told in a minute")
	}
	if err := nfsCopy(ctx, t, h, small, mountpoint+"/second").Run(); err == nil {
		t.Error("written without a lease")
	}
	p.update(func() { p.noLeases = false })
	eventually(t, "written with a new lease", func() bool {
		return nfsCopy(ctx, t, h, small, mountpoint+"/third").Run() == nil
	})
	check(t, mountpoint, "first", "data")
	check(t, mountpoint, "third", "data")
	if exists(filepath.Join(mountpoint, "second")) {
		t.Error("what was refused is there")
	}
}
