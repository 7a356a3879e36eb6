package controlplane_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"google.golang.org/protobuf/proto"

	"tarn/controlplane"
	"tarn/controlplane/identity"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// TestDivergedNodeStops: a node whose log says something else ends, with a text that
// names the way on, and the others go on.
func TestDivergedNodeStops(t *testing.T) {
	h := newHarness(t, 3)
	h.leader()
	h.makeType("silver")
	h.await("the cluster's version", func() bool { return h.leader().View().CommandVersion() == raftfsm.CommandVersion })
	leader := h.leader()
	victim := h.nodes[0]
	if victim == leader {
		victim = h.nodes[1]
	}
	want := leader.View().Index()
	h.await("the follower has it", func() bool { return victim.View().Index() >= want })
	victim.stop(t)
	forge(t, victim.cfg)
	h.nodes = without(h.nodes, victim)
	cfg := victim.cfg
	cfg.Socket, cfg.AdminSocket = again(t, cfg.Listen), socket(t)
	// It must not be the one that leads, or the others would be those that differ.
	cfg.Raft.HeartbeatTimeout = time.Minute
	back, err := controlplane.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- back.Run(context.Background()) }()
	h.await("it has replayed its log", func() bool { _, ok := back.View().ShareTypeByName("sulver"); return ok })
	if err := h.leader().Compare(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "differs from the leader's") || !strings.Contains(err.Error(), "add it again empty") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("a node with another state goes on")
	}
	h.makeType("after")
}

func without(nodes []*runningNode, gone *runningNode) (out []*runningNode) {
	for _, n := range nodes {
		if n != gone {
			out = append(out, n)
		}
	}
	return out
}

// forge changes one letter in the log of a stopped node, so that its state differs.
func forge(t *testing.T, cfg controlplane.Config) {
	t.Helper()
	db, err := raftboltdb.New(raftboltdb.Options{
		Path: filepath.Join(controlplane.RaftDir(cfg.DataDir), "raft.db"), MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	last, err := db.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	forged := false
	for i := uint64(1); i <= last; i++ {
		var entry raft.Log
		if err := db.GetLog(i, &entry); err != nil {
			t.Fatal(err)
		}
		cmd := &raftv1.Command{}
		if entry.Type != raft.LogCommand || proto.Unmarshal(entry.Data, cmd) != nil || cmd.GetPutShareType() == nil {
			continue
		}
		cmd.GetPutShareType().GetShareType().Name = "sulver"
		if entry.Data, err = proto.Marshal(cmd); err != nil {
			t.Fatal(err)
		}
		entry.Extensions = nil // no checksum, as before there were any
		if err := db.StoreLog(&entry); err != nil {
			t.Fatal(err)
		}
		forged = true
	}
	if !forged {
		t.Fatal("found nothing to forge")
	}
}

// TestVersionIsInTheStatus: a new cluster is raised by itself, and says where it is.
func TestVersionIsInTheStatus(t *testing.T) {
	h := newHarness(t, 1)
	op := h.operator()
	h.await("the version", func() bool {
		s, err := op.Operator.GetStatus(context.Background(), &tarnv1.GetStatusRequest{})
		return err == nil && s.GetCommandVersion() == raftfsm.CommandVersion && len(s.GetProblems()) == 0
	})
	// A node of an older version is not let in.
	id := "7f2c8a4e-0f0c-4f5e-9d3a-000000000001"
	old := h.as(identity.Subject{Role: identity.RoleControl, ID: id})
	_, err := old.Operator.Hello(t.Context(), &tarnv1.HelloRequest{Id: id, Address: "127.0.0.1:1", CommandVersion: 1})
	if err == nil || !strings.Contains(err.Error(), "install a newer tarn") {
		t.Errorf("an older node joins: %v", err)
	}
}
