package controlplane_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"tarn/controlplane"
	"tarn/controlplane/backup"
	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// readBackup takes a whole backup through the API.
func readBackup(t testing.TB, api *client.Client) []byte {
	t.Helper()
	var out []byte
	req := &tarnv1.ReadBackupRequest{}
	for {
		piece, err := api.Operator.ReadBackup(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		again, err := api.Operator.ReadBackup(context.Background(), &tarnv1.ReadBackupRequest{Id: piece.GetId(), Piece: req.GetPiece()})
		if err != nil || !bytes.Equal(again.GetData(), piece.GetData()) {
			t.Fatalf("the same piece again: %v", err)
		}
		out = append(out, piece.GetData()...)
		if piece.GetLast() {
			return out
		}
		req = &tarnv1.ReadBackupRequest{Id: piece.GetId(), Piece: req.GetPiece() + 1}
	}
}

func (h *harness) makeType(name string) *tarnv1.ShareType {
	h.t.Helper()
	made, err := h.operator().ShareTypes.CreateShareType(context.Background(), &tarnv1.CreateShareTypeRequest{
		Name: name, ExtraSpecs: map[string]string{"driver_handles_share_servers": "false"},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return made
}

// empty is the configuration of a new node that knows the others.
func (h *harness) empty(join ...string) controlplane.Config {
	cfg := h.nodes[0].cfg
	cfg.DataDir, cfg.PKIDir, cfg.BootstrapExpect, cfg.Join = h.t.TempDir(), "", 0, join
	cfg.Socket, cfg.AdminSocket = socket(h.t), socket(h.t)
	cfg.Listen, cfg.Advertise = cfg.Socket.Addr().String(), cfg.Socket.Addr().String()
	cfg.Gossip.KeyFile = ""
	h.certify(cfg.DataDir)
	return cfg
}

func TestRestoreRefusesBesideARunningCluster(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	h.makeType("gold")
	file := readBackup(t, h.operator())
	cfg := h.empty()
	closeSocket(t, cfg.Socket)
	if _, err := controlplane.Restore(t.Context(), cfg, bytes.NewReader(file)); !errors.Is(err, controlplane.ErrClusterRuns) {
		t.Errorf("a member of the backup's time runs: %v", err)
	}
	// The state of a stopped node is not overwritten either.
	h.nodes[0].stop(t)
	mine := h.nodes[0].cfg
	if _, err := controlplane.Restore(t.Context(), mine, bytes.NewReader(file)); !errors.Is(err, controlplane.ErrClusterRuns) ||
		!strings.Contains(err.Error(), "empty data directory") {
		t.Errorf("into a directory with a log: %v", err)
	}
	other, err := identity.NewCA("other")
	if err != nil {
		t.Fatal(err)
	}
	h.ca = other
	foreign := h.empty()
	closeSocket(t, foreign.Socket)
	if _, err := controlplane.Restore(t.Context(), foreign, bytes.NewReader(file)); err == nil || !strings.Contains(err.Error(), `"test"`) {
		t.Errorf("into another cluster: %v", err)
	}
	file[len(file)/2] ^= 1
	if _, err := controlplane.Restore(t.Context(), cfg, bytes.NewReader(file)); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a damaged file: %v", err)
	}
}

func closeSocket(t testing.TB, l net.Listener) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRestoredClusterGoesOn: everything is lost but the backup and the authority.
func TestRestoredClusterGoesOn(t *testing.T) {
	h := newHarness(t, 3)
	h.leader()
	kept := h.makeType("kept")
	if _, err := h.operator().Operator.CreateJoinToken(t.Context(), &tarnv1.CreateJoinTokenRequest{Role: "agent"}); err != nil {
		t.Fatal(err)
	}
	file := readBackup(t, h.operator())
	h.makeType("lost")
	for _, n := range h.nodes {
		n.stop(t)
	}
	cfg := h.empty()
	closeSocket(t, cfg.Socket)
	done, err := controlplane.Restore(t.Context(), cfg, bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if len(done.Unasked) != 3 || done.Records["join_token"] != 1 {
		t.Errorf("%+v", done)
	}
	cfg.Socket = again(t, cfg.Listen)
	h.nodes = nil
	first := h.start(cfg)
	h.leader()
	types := func() (names []string) {
		res, err := h.operator().ShareTypes.ListShareTypes(context.Background(), &tarnv1.ListShareTypesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range res.GetShareTypes() {
			names = append(names, s.GetName())
		}
		return names
	}
	if got := types(); len(got) != 1 || got[0] != kept.GetName() {
		t.Fatalf("after the restore: %v", got)
	}
	if got, err := backup.Check(bytes.NewReader(readBackup(t, h.operator()))); err != nil || got.Records["join_token"] != 0 {
		t.Errorf("join tokens live on: %+v, %v", got, err)
	}
	// Others join with empty directories and get votes.
	for range 2 {
		h.start(h.empty(first.cfg.Advertise))
	}
	h.makeType("new")
	h.await("three voters", func() bool {
		res, err := h.operator().Operator.ListRaftServers(context.Background(), &tarnv1.ListRaftServersRequest{})
		votes := 0
		for _, s := range res.GetServers() {
			if s.GetVoter() {
				votes++
			}
		}
		return err == nil && votes == 3
	})
	first.stop(t)
	if got := types(); len(got) != 2 {
		t.Fatalf("without the restored node: %v", got)
	}
}

// again opens the address that was free a moment ago.
func again(t testing.TB, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
