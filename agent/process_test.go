package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
	"tarn/zfs"
	"tarn/zfs/dirzfs"
	"tarn/zfs/zfstest/realzfs"
)

// The tests here need agents that can be killed: this test binary again, told by
// its environment to be an agent, or that agent's dead-man.
const roleEnv = "TARN_AGENT_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "agent":
		os.Exit(agentProcess(os.Args[1]))
	case "deadman":
		if deadmanProcess(os.Args[1:]) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(realzfs.Main(m))
}

// deadmanProcess is what tarn deadman [--within=DATASET] DIR does.
func deadmanProcess(args []string) error {
	var within []string
	for len(args) > 1 {
		within, args = append(within, strings.TrimPrefix(args[0], "--within=")), args[1:]
	}
	if len(within) > 0 {
		return RunDeadmanWithin(args[0], within, slog.New(slog.DiscardHandler))
	}
	return RunDeadman(args[0], slog.New(slog.DiscardHandler))
}

func agentProcess(config string) int {
	cfg, err := LoadConfig(config)
	if err == nil {
		cfg.DeadmanCommand = []string{"/usr/bin/env", roleEnv + "=deadman", "/proc/self/exe"}
		if exe, err := os.Executable(); err == nil {
			cfg.DeadmanCommand[2] = exe
		}
		var agent *Agent
		if agent, err = New(cfg); err == nil {
			err = agent.Run(context.Background())
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// serve makes the plane reachable over the network as a control node is.
func (p *plane) serve(t *testing.T, ca *identity.CA) string {
	t.Helper()
	dir := t.TempDir()
	issue(t, ca, dir, identity.RoleControl)
	material, err := identity.LoadMaterial(dir)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(tarnv1connect.NewAgentServiceHandler(p))
	server := &http.Server{Handler: mux, TLSConfig: material.ServerConfig("h2", "http/1.1"), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return listener.Addr().String()
}

// spawn starts the host's agent as a process of its own.
func (h *host) spawn(join string) *exec.Cmd {
	h.t.Helper()
	config := map[string]any{
		"name": h.cfg.Name, "data_dir": h.cfg.DataDir, "listen": h.cfg.Listen, "advertise": h.cfg.Advertise,
		"join": []string{join}, "availability_zone": h.cfg.AvailabilityZone,
		"admin": map[string]any{"listen": "127.0.0.1:0"},
		"lease": map[string]any{"duration": h.cfg.Lease.Duration.String(), "renew": leaseRenew.String(), "margin": leaseMargin.String()},
		"pool":  []map[string]any{{"name": "tank", "path": h.cfg.Pools[0].Path}},
	}
	if e := h.cfg.Export; e.Server != "" {
		config["export"] = map[string]any{"server": e.Server, "listen": e.Listen, "any_port": e.AnyPort}
	}
	if h.cfg.Storage == StorageZFS {
		config["storage"], config["pool"] = StorageZFS, []map[string]any{{"name": h.cfg.Pools[0].Name, "mountpoint": h.cfg.Pools[0].Mountpoint}}
	}
	if c := h.cfg.Helper; c.Socket != "" {
		config["helper"] = map[string]any{"socket": c.Socket, "user": c.User, "data_dir": c.DataDir}
	}
	var text bytes.Buffer
	if err := toml.NewEncoder(&text).Encode(config); err != nil {
		h.t.Fatal(err)
	}
	file := filepath.Join(h.dir, "agent.toml")
	if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
		h.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command(exe, file)
	cmd.Env = append(os.Environ(), roleEnv+"=agent")
	// A file, not a pipe: the dead-man inherits it and would keep Wait waiting.
	log, err := os.OpenFile(filepath.Join(h.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd.Stderr = log
	if h.binary != "" {
		h.own()
		cmd.Path, cmd.SysProcAttr = h.binary, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// printLog shows what the agents said if the test failed.
func (h *host) printLog() {
	if text, err := os.ReadFile(filepath.Join(h.dir, "agent.log")); err == nil && h.t.Failed() {
		h.t.Logf("%s", text)
	}
}

// The first law when the agent cannot keep it: its lease ends, and so does the
// reach of the share, though the agent is dead or does not run.
func TestShareIsFencedWithoutItsAgent(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		t.Run(signal.String(), func(t *testing.T) {
			p, ca := newPlane(), newCA(t)
			fencedWithoutItsAgent(t, p, newHost(t, p, ca, "a"), p.serve(t, ca), signal)
		})
	}
}

func fencedWithoutItsAgent(t *testing.T, p *plane, h *host, join string, signal syscall.Signal) {
	t.Helper()
	share, replica := ids(t)
	as := active(share, replica, 1)
	as.Pool = h.cfg.Pools[0].Name
	h.assign(as)
	defer h.printLog()
	agent := h.spawn(join)
	mountpoint := p.await(t, replica, "writable", writable).GetMountpoint()
	put(t, mountpoint, "f", "data")
	p.mu.Lock()
	class := p.hosts[h.id].GetFenceClass()
	p.mu.Unlock()
	if class != tarnv1.FenceClass_FENCE_CLASS_HELPER {
		t.Errorf("fence class %v", class)
	}
	if err := agent.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	eventually(t, "fenced", func() bool { return !exists(filepath.Join(mountpoint, "f")) })
	if signal == syscall.SIGSTOP {
		// It wakes, finds itself fenced, and serves again with a new lease.
		if err := agent.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		eventually(t, "served again", func() bool { return exists(filepath.Join(mountpoint, "f")) })
		check(t, mountpoint, "f", "data")
	}
}

// An agent that was killed comes back before its lease ends: its dead-man hands
// over, and does not cut the new lease at the old deadline.
func TestKilledAgentComesBackWithinItsLease(t *testing.T) {
	p, ca := newPlane(), newCA(t)
	p.lease = 10 * time.Second // longer than a loaded machine takes to start an agent
	h := newHost(t, p, ca, "a")
	h.cfg.Lease.Duration = p.lease
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	join := p.serve(t, ca)
	first := h.spawn(join)
	defer h.printLog()
	mountpoint := p.await(t, replica, "writable", writable).GetMountpoint()
	put(t, mountpoint, "f", "data")
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	p.update(func() { delete(p.latest, replica) })
	h.spawn(join)
	p.await(t, replica, "writable again", writable)
	check(t, mountpoint, "f", "data")
	// The old deadline passes; the renewed lease holds.
	renewed := p.renewals() + int(p.lease/leaseRenew) + 2
	p.until(t, func() bool { return p.granted >= renewed }, func() string { return "lease is not renewed any more" })
	check(t, mountpoint, "f", "data")
	p.mu.Lock()
	defer p.mu.Unlock()
	if log, err := os.ReadFile(filepath.Join(h.dir, "agent.log")); err != nil || bytes.Contains(log, []byte("fenced")) {
		t.Errorf("something was fenced (%v):\n%s", err, log)
	}
}

// What an earlier life left mounted for writing is taken out of reach before
// anything else: a host boots non-writable.
func TestHostStartsNonWritable(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	h.start()
	mountpoint := p.await(t, replica, "writable", writable).GetMountpoint()
	put(t, mountpoint, "f", "data")
	h.stop()
	remount(t, h, "tank/tarn/"+replica)
	if !exists(filepath.Join(mountpoint, "f")) {
		t.Fatal("the test did not leave it mounted")
	}
	p.update(func() { p.noLeases = true })
	h.start()
	p.until(t, func() bool { return p.registered == 2 }, func() string { return "not registered again" })
	if exists(filepath.Join(mountpoint, "f")) {
		t.Error("still reachable for writing without a lease")
	}
}

// remount leaves a dataset as a crash would: mounted and writable, with no agent.
func remount(t *testing.T, h *host, dataset string) {
	t.Helper()
	storage, err := dirzfs.Open(dirzfs.Config{
		Pools: []dirzfs.Pool{{Name: "tank", Dir: h.cfg.Pools[0].Path, Capacity: int64(h.cfg.Pools[0].Capacity)}}, Logger: logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = storage.Close() }()
	if err := storage.Set(t.Context(), dataset, map[string]string{zfs.PropReadOnly: "off"}); err != nil {
		t.Fatal(err)
	}
	if err := storage.Mount(t.Context(), dataset); err != nil {
		t.Fatal(err)
	}
}
