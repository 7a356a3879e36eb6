package api_test

import (
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"tarn/controlplane/client"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// loseFirst loses the first answer of each of the procedures, after something else has
// happened, and tells how many were lost.
func (s *server) loseFirst(meanwhile func()) *atomic.Int32 {
	lost := &atomic.Int32{}
	done := false
	f := func(string) bool {
		if done {
			return true
		}
		done = true
		lost.Add(1)
		meanwhile()
		return false
	}
	s.afterwards.Store(&f)
	s.t.Cleanup(func() { s.afterwards.Store(nil) })
	return lost
}

// must does something for which no answer is lost.
func (s *server) must(cmd *raftv1.Command) {
	s.t.Helper()
	if res, err := s.log.Propose(s.t.Context(), cmd); err != nil || res.Err != nil {
		s.t.Fatalf("%v, %v", err, res)
	}
}

// TestLostAnswersAreNotDoneTwice: somebody else's change comes between two attempts of a
// request whose first answer was lost. It is not undone, and the caller is told what his
// first attempt came to.
func TestLostAnswersAreNotDoneTwice(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	s.host("one", "az1")
	kind := s.shareType(op, "gold")
	share := s.share(op, kind, "a")
	his := &raftv1.Command{Verb: &raftv1.Command_UpdateShare{UpdateShare: &raftv1.UpdateShare{Id: share.GetId(), Description: proto.String("his")}}}

	lost := s.loseFirst(func() { s.must(his) })
	got, err := op.Shares.UpdateShare(t.Context(), &tarnv1.UpdateShareRequest{Id: share.GetId(), Description: proto.String("hers")})
	if err != nil || lost.Load() != 1 || got.GetDescription() != "hers" {
		t.Errorf("answer %v, %v, %d lost", got, err, lost.Load())
	}
	if stored, _ := s.fsm.View().Share(share.GetId()); stored.GetDescription() != "his" || stored.GetRevision() <= got.GetRevision() {
		t.Errorf("the other's change was undone: %v", stored)
	}

	// One that names its revision is not refused for what it has done itself.
	stored, _ := s.fsm.View().Share(share.GetId())
	lost = s.loseFirst(func() {})
	got, err = op.Shares.UpdateShare(t.Context(), &tarnv1.UpdateShareRequest{Id: share.GetId(), Description: proto.String("hers"), Revision: stored.GetRevision()})
	if err != nil || lost.Load() != 1 || got.GetDescription() != "hers" {
		t.Errorf("with a revision: %v, %v, %d lost", got, err, lost.Load())
	}

	// What is created is not called taken because it was renamed since.
	s.loseFirst(func() {
		for found := range s.fsm.View().Shares() {
			if found.GetName() == "b" {
				s.must(&raftv1.Command{Verb: &raftv1.Command_UpdateShare{UpdateShare: &raftv1.UpdateShare{Id: found.GetId(), Name: proto.String("c")}}})
			}
		}
	})
	made, err := op.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{Name: "b", SizeGib: 1, ShareType: kind.GetId()})
	if err != nil || made.GetName() != "b" {
		t.Errorf("created: %v, %v", made, err)
	}
}

// TestLostRefusalsStay: what was refused is refused again, though it would be accepted by
// now; and what was never there is not called deleted.
func TestLostRefusalsStay(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	kind := s.shareType(op, "gold")
	taken := s.shareType(op, "silver")
	rename := &tarnv1.UpdateShareTypeRequest{Id: kind.GetId(), Name: proto.String("silver")}
	lost := s.loseFirst(func() {
		s.must(&raftv1.Command{Verb: &raftv1.Command_DeleteShareType{DeleteShareType: &raftv1.DeleteShareType{Id: taken.GetId()}}})
	})
	_, err := op.ShareTypes.UpdateShareType(t.Context(), rename)
	wantCode(t, err, connect.CodeAlreadyExists)
	if lost.Load() != 1 {
		t.Error("no answer was lost")
	}
	_, err = op.ShareTypes.UpdateShareType(t.Context(), rename)
	if err != nil {
		t.Errorf("a new request: %v", err)
	}
	s.loseFirst(func() {})
	_, err = op.ShareTypes.DeleteShareType(t.Context(), &tarnv1.GetRequest{Id: uuid.NewString()})
	wantCode(t, err, connect.CodeNotFound)
	s.loseFirst(func() {})
	if _, err = op.ShareTypes.DeleteShareType(t.Context(), &tarnv1.GetRequest{Id: kind.GetId()}); err != nil {
		t.Errorf("deleted, and asked again: %v", err)
	}
}

// TestKeysAreOfOneRequest: a header that is no UUID, and a key that was used before.
func TestKeysAreOfOneRequest(t *testing.T) {
	s := newServer(t)
	op := s.operator()
	kind := s.shareType(op, "gold")
	web := httpClient(t, s.tls(operatorSubject()))
	const update = "/tarn.v1.ShareTypeService/UpdateShareType"
	req := &tarnv1.UpdateShareTypeRequest{Id: kind.GetId(), Description: proto.String("one")}
	if got := postKeyed(t, web, s.addr, update, "no-uuid", req); got.code != connect.CodeInvalidArgument.String() || !got.violates(client.KeyHeader) {
		t.Errorf("a key that is none: %s %s", got.code, got.message)
	}
	key := uuid.NewString()
	for range 2 {
		if got := postKeyed(t, web, s.addr, update, key, req); got.code != "ok" || got.header.Get(client.KeepsKeysHeader) == "" {
			t.Errorf("%s %s %v", got.code, got.message, got.header)
		}
	}
	index := s.log.proposals()
	req.Description = proto.String("two")
	if got := postKeyed(t, web, s.addr, update, key, req); got.code != connect.CodeInvalidArgument.String() {
		t.Errorf("another request under the key: %s %s", got.code, got.message)
	}
	if stored, _ := s.fsm.View().ShareType(kind.GetId()); stored.GetDescription() != "one" || s.log.proposals() != index {
		t.Errorf("it was done, or proposed: %v", stored)
	}
}

// TestOldClusterKeepsNoKeys: below its version nothing is promised, and nothing kept.
func TestOldClusterKeepsNoKeys(t *testing.T) {
	s := newServerAt(t, raftfsm.KeyVersion-1)
	got := postKeyed(t, httpClient(t, s.tls(operatorSubject())), s.addr, "/tarn.v1.ShareTypeService/CreateShareType", uuid.NewString(),
		&tarnv1.CreateShareTypeRequest{Name: "x", ExtraSpecs: map[string]string{"driver_handles_share_servers": "false"}})
	if got.code != "ok" || got.header.Get(client.KeepsKeysHeader) != "" {
		t.Errorf("%s %s %v", got.code, got.message, got.header)
	}
}
