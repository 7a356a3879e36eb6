package controlplane_test

import (
	"crypto/tls"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"

	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// held opens a connection to a node and returns what its end looks like, once it ends.
// http sends a request first, whose answer shows that the connection is let in.
func (h *harness) held(n *runningNode, s identity.Subject, proto string) <-chan error {
	h.t.Helper()
	dir := h.t.TempDir()
	h.issue(dir, s)
	material, err := identity.LoadMaterial(dir)
	if err != nil {
		h.t.Fatal(err)
	}
	conf := material.ClientConfig(identity.RoleControl)
	conf.NextProtos = []string{proto}
	conn, err := tls.Dial("tcp", n.cfg.Advertise, conf)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		h.t.Fatal(err)
	}
	if proto != consensus.ALPN {
		if _, err := io.WriteString(conn, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			h.t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			h.t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			ended <- err
			return
		}
		ended <- nil
	}()
	return ended
}

// TestRevokedConnectionsAreCut: whoever is revoked loses what it has open at every node,
// not only its next request: a machine that may speak HTTP, and a node that speaks Raft.
func TestRevokedConnectionsAreCut(t *testing.T) {
	h := newHarness(t, 2)
	h.leader()
	op := h.operator()
	for proto, role := range map[string]identity.Role{"http/1.1": identity.RoleAgent, consensus.ALPN: identity.RoleControl} {
		revoked, other := identity.Subject{Role: role, ID: uuid.NewString()}, identity.Subject{Role: role, ID: uuid.NewString()}
		var cut, kept []<-chan error
		for _, n := range h.nodes {
			cut, kept = append(cut, h.held(n, revoked, proto)), append(kept, h.held(n, other, proto))
		}
		if _, err := op.Operator.RevokeUser(t.Context(), &tarnv1.RevokeUserRequest{User: revoked.ID, Reason: "stolen"}); err != nil {
			t.Fatal(err)
		}
		for i, ended := range cut {
			if err := <-ended; err != nil {
				t.Errorf("%s: the connection to node %d stays: %v", proto, i, err)
			}
		}
		for i, ended := range kept {
			select {
			case <-ended:
				t.Errorf("%s: another's connection to node %d ended", proto, i)
			default:
			}
		}
	}
}

// TestRevokedLeaderIsLeft: the others cut it off, elect another leader, and what they
// decide from then on does not reach it.
func TestRevokedLeaderIsLeft(t *testing.T) {
	h := newHarness(t, 3)
	old := h.leader()
	op := h.operator()
	// The answer may be lost with the connection: the client asks again.
	if _, err := op.Operator.RevokeUser(t.Context(), &tarnv1.RevokeUserRequest{User: old.ID(), Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	h.await("another leader", func() bool {
		for _, n := range h.nodes {
			if n != old && n.Consensus().IsLeader() {
				return true
			}
		}
		return false
	})
	h.await("the former leader's end", func() bool { return !old.Consensus().IsLeader() })
	kind := readableType(t, op)
	h.await("the others' agreement", func() bool {
		for _, n := range h.nodes {
			if _, has := n.View().ShareType(kind.GetId()); n != old && !has {
				return false
			}
		}
		return true
	})
	if _, has := old.View().ShareType(kind.GetId()); has {
		t.Error("the revoked node has what was decided after it")
	}
}
