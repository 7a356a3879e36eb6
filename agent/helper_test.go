package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const ordinary = 65534 // nobody: any user that is not root

// withHelper makes the host's agent one of an ordinary user's, with a helper of root's.
func (h *host) withHelper() {
	h.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	program, err := os.ReadFile(self) // where it was built, others may not read
	if err != nil {
		h.t.Fatal(err)
	}
	h.binary = filepath.Join(h.dir, "agent")
	if err := errors.Join(os.WriteFile(h.binary, program, 0o755), os.Chmod(h.dir, 0o755)); err != nil {
		h.t.Fatal(err)
	}
	h.cfg.Helper = HelperConfig{Socket: filepath.Join(h.dir, "helper.sock"), User: strconv.Itoa(ordinary), DataDir: filepath.Join(h.dir, "helper")}
	h.own()
	h.startHelper()
}

// own gives the agent's files to its user, and nothing else.
func (h *host) own() {
	h.t.Helper()
	if err := os.Chmod(filepath.Dir(h.dir), 0o755); err != nil { // the test's own
		h.t.Fatal(err)
	}
	if out, err := exec.Command("chown", "-R", strconv.Itoa(ordinary), h.cfg.DataDir).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
}

func (h *host) startHelper() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	cfg := h.cfg.Defaults()
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	go func() {
		done <- RunHelper(ctx, cfg, HelperOptions{Deadman: []string{"/usr/bin/env", roleEnv + "=deadman", h.binary}})
	}()
	eventually(h.t, "helper", func() bool { return exists(cfg.Helper.Socket) })
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
		if h.t.Failed() {
			h.t.Log(log.String())
		}
		if !strings.Contains(log.String(), "verb=zfs") {
			h.t.Error("no call is in the helper's log")
		}
	})
}

// An agent without any rights serves a real pool through its helper; killed or stopped, it
// is fenced by the dead-man, which the helper started and which needs neither of them.
func TestUnprivilegedAgentServesAndIsFenced(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		t.Run(signal.String(), func(t *testing.T) {
			p, ca := newPlane(), newCA(t)
			h, _ := newZFSHost(t, p, ca)
			h.withHelper()
			fencedWithoutItsAgent(t, p, h, p.serve(t, ca), signal)
		})
	}
}

// The dead-man of a helper fences below the base and nowhere else, whoever gives orders.
func TestHelperConfigurationIsJudged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := CheckHelperFile(file); err != nil {
			t.Error(err)
		}
		if err := os.Chown(file, ordinary, -1); err != nil {
			t.Fatal(err)
		}
	}
	if err := CheckHelperFile(file); err == nil {
		t.Error("another user's file says what root does")
	}
	base := "name = \"a\"\ndata_dir = \"/d\"\nadvertise = \"127.0.0.1:1\"\njoin = [\"127.0.0.1:2\"]\navailability_zone = \"z\"\n"
	for text, want := range map[string]string{
		"storage = \"zfs\"\n[[pool]]\nname = \"tank\"\n[helper]\nsocket = \"/run/x\"\n":                                                            "",
		"[[pool]]\nname = \"tank\"\npath = \"/p\"\n[helper]\nsocket = \"/run/x\"\n":                                                                "for storage zfs",
		"storage = \"zfs\"\n[[pool]]\nname = \"tank\"\n[helper]\nsocket = \"x\"\n":                                                                 "absolute",
		"storage = \"zfs\"\n[[pool]]\nname = \"tank\"\n[helper]\ndeadman_socket = \"/run/x\"\n":                                                    "without helper.socket",
		"storage = \"zfs\"\n[[pool]]\nname = \"tank\"\n[helper]\nsocket = \"/run/x\"\n[export]\nserver = \"embedded\"\nlisten = \"127.0.0.1:3\"\n": "kernel or ganesha",
	} {
		_, err := ParseConfig(base + text)
		if got := ""; err != nil {
			got = err.Error()
			if want == "" || !strings.Contains(got, want) {
				t.Errorf("%s: %s", text, got)
			}
		} else if want != "" {
			t.Errorf("%s: no error", text)
		}
	}
}
