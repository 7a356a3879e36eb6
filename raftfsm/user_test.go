package raftfsm

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

func newUser(id, name string) *raftv1.PutUser {
	return &raftv1.PutUser{
		User:      &tarnv1.User{Id: id, Name: name, Role: "member", ProjectId: "p", ExpiresAt: timestamppb.New(epochStart.Add(time.Hour))},
		TokenHash: "hash of " + id,
	}
}

func TestUsersAreMadeAndRevoked(t *testing.T) {
	n := newNode(t)
	n.do(newUser("1", "ann"))
	for what, cmd := range map[string]*raftv1.PutUser{
		"id":   newUser("1", "bob"),
		"name": newUser("2", "ann"),
	} {
		if res := n.try(cmd); res.Err == nil || res.Err.Code != AlreadyExists {
			t.Errorf("same %s: %v", what, res.Err)
		}
	}
	same := newUser("3", "carl")
	same.TokenHash = "hash of 1"
	if res := n.try(same); res.Err == nil {
		t.Error("two users with one token")
	}
	if u, ok := n.f.View().UserByToken("hash of 1"); !ok || u.GetName() != "ann" {
		t.Errorf("by token: %v", u)
	}
	n.do(&raftv1.RevokeUser{Id: "1", Reason: "left", By: "op"})
	n.do(&raftv1.RevokeUser{Id: "of a certificate", Reason: "stolen", By: "op"})
	v := n.f.View()
	if _, ok := v.UserByToken("hash of 1"); ok {
		t.Error("a revoked token is found")
	}
	if _, ok := v.UserByToken(""); ok {
		t.Error("no token is found")
	}
	u, _ := v.User("1")
	cert, _ := v.User("of a certificate")
	if u.GetRevokedReason() != "left" || u.GetRevokedAt() == nil || cert.GetRevokedBy() != "op" {
		t.Errorf("revoked: %v, %v", u, cert)
	}
	again := n.do(&raftv1.RevokeUser{Id: "1", Reason: "again", By: "op"}).(*tarnv1.User)
	if again.GetRevokedReason() != "left" {
		t.Errorf("revoked twice: %v", again)
	}
	n.do(newUser("4", "ann"))
	if got := restored(t, dump(t, n.f.View())); !bytes.Equal(dump(t, got.View()), dump(t, n.f.View())) {
		t.Error("users do not survive a round trip")
	}
}

func TestUsersNeedEverything(t *testing.T) {
	n := newNode(t)
	for what, spoil := range map[string]func(*raftv1.PutUser){
		"id":      func(c *raftv1.PutUser) { c.User.Id = "" },
		"name":    func(c *raftv1.PutUser) { c.User.Name = "" },
		"role":    func(c *raftv1.PutUser) { c.User.Role = "" },
		"end":     func(c *raftv1.PutUser) { c.User.ExpiresAt = nil },
		"token":   func(c *raftv1.PutUser) { c.TokenHash = "" },
		"user":    func(c *raftv1.PutUser) { c.User = nil },
		"revoked": func(c *raftv1.PutUser) { c.User.RevokedAt = c.User.ExpiresAt },
	} {
		c := newUser("1", "ann")
		spoil(c)
		if res := n.try(c); res.Err == nil || res.Err.Code != InvalidArgument {
			t.Errorf("without %s: %v", what, res.Err)
		}
	}
	if res := n.try(&raftv1.RevokeUser{}); res.Err == nil {
		t.Error("nobody was revoked")
	}
}

// TestJoinTokenIsForOneKey: of everybody who shows a token at once one gets it, and
// only with the key that it was first used for does the same node get it again.
func TestJoinTokenIsForOneKey(t *testing.T) {
	n := newNode(t)
	n.do(&raftv1.PutJoinToken{Token: &raftv1.JoinToken{Hash: "h", Role: "agent"}})
	n.do(&raftv1.UseJoinToken{Hash: "h", NodeId: "node", KeyHash: "key"})
	n.do(&raftv1.UseJoinToken{Hash: "h", NodeId: "node", KeyHash: "key"})
	for what, use := range map[string]*raftv1.UseJoinToken{
		"another node":                 {Hash: "h", NodeId: "other", KeyHash: "key"},
		"the same node, another key":   {Hash: "h", NodeId: "node", KeyHash: "thief's"},
		"the same node without a key":  {Hash: "h", NodeId: "node"},
		"a token that never was there": {Hash: "x", NodeId: "node", KeyHash: "key"},
	} {
		if res := n.try(use); res.Err == nil {
			t.Errorf("%s got in", what)
		}
	}
}
