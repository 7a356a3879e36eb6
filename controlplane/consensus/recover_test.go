package consensus

import (
	"errors"
	"testing"
)

func TestRecoverAfterTheMajorityIsLost(t *testing.T) {
	c := three(t)
	c.write("kept")
	c.agree()
	for _, m := range c.members {
		if err := m.stop(); err != nil {
			t.Fatal(err)
		}
	}
	survivor := c.members[1]
	cfg := survivor.node.cfg
	cfg.FSM = &listFSM{}
	if err := Recover(cfg, []Server{{ID: "someone else", Addr: "127.0.0.1:1"}}); !errors.Is(err, ErrConflict) {
		t.Fatalf("without itself: %v", err)
	}
	if err := Recover(cfg, []Server{{ID: cfg.ID, Addr: survivor.addr}}); err != nil {
		t.Fatal(err)
	}
	c.members = []*member{survivor}
	c.start(survivor)
	c.write("more")
	if _, err := c.leader().node.ReadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := survivor.fsm.text(); got != "kept\nmore" {
		t.Fatalf("after recovery: %q", got)
	}
	// Lost servers are replaced by empty ones.
	late := c.add(func(cfg *Config) { cfg.Join = []string{survivor.addr} })
	eventually(t, "the replacement is a voter", func() bool {
		servers, err := c.leader().node.Servers()
		me, ok := find(servers, late.node.ID())
		return err == nil && ok && me.Voter
	})
	c.agree()
}
