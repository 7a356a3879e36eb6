package controlplane_test

import (
	"errors"
	"testing"

	"tarn/controlplane"
)

// TestLostQuorumIsRecovered: two of three nodes and their disks are gone.
func TestLostQuorumIsRecovered(t *testing.T) {
	h := newHarness(t, 3)
	h.leader()
	h.makeType("kept")
	survivor := h.nodes[1]
	want := h.leader().View().Index()
	h.await("the survivor has it", func() bool { return survivor.View().Index() >= want })
	survivor.stop(t)
	if _, err := controlplane.Recover(t.Context(), survivor.cfg); !errors.Is(err, controlplane.ErrClusterRuns) {
		t.Fatalf("while the others run: %v", err)
	}
	for _, n := range h.nodes {
		n.stop(t)
	}
	seen, err := controlplane.Inspect(survivor.cfg)
	if err != nil || seen.NodeID != survivor.ID() || len(seen.Servers) != 3 || seen.LastIndex < want {
		t.Fatalf("inspect: %+v, %v", seen, err)
	}
	done, err := controlplane.Recover(t.Context(), survivor.cfg)
	if err != nil || done.LastIndex != seen.LastIndex {
		t.Fatalf("recover: %+v, %v", done, err)
	}
	cfg := survivor.cfg
	cfg.Socket, cfg.AdminSocket, cfg.Join = again(t, cfg.Listen), socket(t), nil
	cfg.BootstrapExpect = 0
	h.nodes = nil
	h.start(cfg)
	h.leader()
	h.start(h.empty(cfg.Advertise))
	h.makeType("new")
	h.await("a second voter", func() bool {
		servers, err := h.nodes[0].Consensus().Servers()
		return err == nil && len(servers) == 2 && servers[0].Voter && servers[1].Voter
	})
	if _, ok := h.leader().View().ShareTypeByName("kept"); !ok {
		t.Error("what was acknowledged is lost")
	}
}
