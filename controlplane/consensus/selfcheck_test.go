package consensus

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

func TestDamagedSnapshotIsNoticed(t *testing.T) {
	c := &cluster{t: t}
	m := c.add(func(cfg *Config) { cfg.BootstrapExpect = 1 })
	c.write("kept")
	snaps, err := raft.NewFileSnapshotStoreWithLogger(m.dir, 2, raftLogger(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := checkSnapshot(snaps, nil); err != nil {
		t.Fatalf("no snapshot yet: %v", err)
	}
	if err := m.node.raft.Load().Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if err := checkSnapshot(snaps, nil); err != nil {
		t.Fatalf("good snapshot: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(m.dir, snapshotDir, "*", "state.bin"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("kepT"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkSnapshot(snaps, nil); !errors.Is(err, ErrTorn) {
		t.Fatalf("one letter changed: %v, want ErrTorn", err)
	}
}
