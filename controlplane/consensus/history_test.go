package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

var errTooNew = errors.New("a newer version wrote it")

// withSnapshots returns a stopped member with two snapshots and little log before the
// newer one, and how its node is made.
func withSnapshots(t *testing.T, trailing uint64) (*cluster, *member) {
	t.Helper()
	c := &cluster{t: t}
	m := c.add(func(cfg *Config) {
		cfg.BootstrapExpect, cfg.TrailingLogs = 1, trailing
		cfg.VerifySnapshot = func(r io.Reader) error {
			text, err := io.ReadAll(r)
			if strings.Contains(string(text), "too new") {
				return errTooNew
			}
			return err
		}
	})
	for round := range 2 {
		for i := range 10 {
			c.write(fmt.Sprint("round ", round, " entry ", i))
		}
		if err := m.node.raft.Load().Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	c.write("last")
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	return c, m
}

// states lists the state files, newest first.
func states(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, snapshotDir, "*", "state.bin"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	slices.Sort(files)
	slices.Reverse(files)
	return files
}

func spoil(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// runs opens and runs the member once, until it ends or serves.
func (c *cluster) runs(m *member) error {
	c.start(m)
	defer func() { _ = m.stop() }()
	for {
		select {
		case err := <-m.done:
			m.cancel()
			m.cancel = nil
			return err
		default:
		}
		if m.node.IsLeader() {
			return nil
		}
		runtime.Gosched()
	}
}

// TestDamagedSnapshotFallsBack: the older snapshot and the log make up for it, if the
// log reaches back to it; else the node does not start with a hole in its state.
func TestDamagedSnapshotFallsBack(t *testing.T) {
	c, m := withSnapshots(t, 1000)
	want := m.fsm.text()
	spoil(t, states(t, m.dir)[0])
	if err := c.runs(m); err != nil {
		t.Fatal(err)
	}
	if m.fsm.text() != want {
		t.Errorf("went on with %q, want %q", m.fsm.text(), want)
	}
	spoil(t, states(t, m.dir)[1])
	if err := c.runs(m); err == nil {
		t.Errorf("it started with no snapshot that is whole")
	}
}

func TestNoStateWithAHole(t *testing.T) {
	for name, damage := range map[string]func(newest, older string) error{
		"newest damaged":  func(newest, _ string) error { return os.Truncate(newest, 3) },
		"newest lost":     func(newest, _ string) error { return os.RemoveAll(filepath.Dir(newest)) },
		"snapshots lost":  func(newest, _ string) error { return os.RemoveAll(filepath.Dir(filepath.Dir(newest))) },
		"both unreadable": func(newest, older string) error { return errors.Join(os.Truncate(newest, 0), os.Truncate(older, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			c, m := withSnapshots(t, 1)
			files := states(t, m.dir)
			if err := damage(files[0], files[1]); err != nil {
				t.Fatal(err)
			}
			if err := c.runs(m); !errors.Is(err, ErrTorn) || !strings.Contains(err.Error(), "the log begins at entry") {
				t.Errorf("it started, or ended with %v", err)
			}
		})
	}
}

// TestDowngradeIsRefused: what a newer version wrote stops an older one with its own
// words, and is left alone.
func TestDowngradeIsRefused(t *testing.T) {
	c, m := withSnapshots(t, 1000)
	c.start(m)
	c.write("too new")
	if err := m.node.raft.Load().Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	before := states(t, m.dir)
	if err := c.runs(m); !errors.Is(err, errTooNew) {
		t.Errorf("it started, or ended with %v", err)
	}
	if after := states(t, m.dir); !slices.Equal(before, after) {
		t.Errorf("snapshots before %v, after %v", before, after)
	}
	if err := checkDir(m.dir, m.node.ID()); err != nil {
		t.Errorf("the refused directory: %v", err)
	}
}

// TestSeedNeverOverwrites: neither a directory with a log nor a half-done one is lost.
func TestSeedNeverOverwrites(t *testing.T) {
	c, m := withSnapshots(t, 1000)
	state := func(w io.Writer) error { _, err := io.WriteString(w, "seeded"); return err }
	cfg := m.node.cfg
	cfg.FSM = &listFSM{}
	if err := Seed(cfg, 7, 3, state); !errors.Is(err, ErrConflict) {
		t.Fatalf("a directory with a log: %v", err)
	}
	dir := t.TempDir()
	id, err := ServerID(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ID, cfg.Dir, cfg.BootstrapExpect = id, dir, 1
	broken := errors.New("the file ends early")
	if err := Seed(cfg, 7, 3, func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Fatalf("broken source: %v", err)
	}
	// Interrupted: it must not found a cluster of its own.
	half := &member{t: t, dir: dir, addr: m.addr, config: func(cfg *Config) { cfg.BootstrapExpect = 1 }}
	c.members = nil
	c.start(half)
	ctx, cancel := context.WithTimeout(t.Context(), 4*fast().Heartbeat)
	defer cancel()
	if _, _, err := half.node.Propose(ctx, []byte("x")); err == nil {
		t.Error("a half seeded directory became a cluster")
	}
	if err := half.stop(); err != nil {
		t.Fatal(err)
	}
	if err := Seed(cfg, 7, 3, state); err != nil {
		t.Fatal(err)
	}
	c.start(half)
	t.Cleanup(func() { _ = half.stop() })
	c.write("more")
	if got := half.fsm.text(); got != "seeded\nmore" || half.node.raft.Load().CurrentTerm() <= 3 {
		t.Errorf("holds %q in term %d", got, half.node.raft.Load().CurrentTerm())
	}
}

var _ raft.FSM = (*listFSM)(nil)
