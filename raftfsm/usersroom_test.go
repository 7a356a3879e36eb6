package raftfsm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// crowded is a cluster with as many users and revoked certificates as there may be; change
// makes the record of each.
func crowded(t *testing.T, version uint32, change func(i int, r *raftv1.UserRecord)) *node {
	t.Helper()
	n := newNode(t)
	n.do(&raftv1.SetCommandVersion{Version: version})
	tx := begin(n.f.published.Load())
	users := mutable(tx.own, &tx.s.users)
	for i := range maxUsers {
		id := fmt.Sprintf("%06d", i)
		r := &raftv1.UserRecord{TokenHash: "hash of " + id, User: &tarnv1.User{
			Id: id, Name: "user " + id, Role: "member", ProjectId: "p", ExpiresAt: timestamppb.New(epochStart.Add(1000 * time.Hour)),
		}}
		change(i, r)
		users.put(r)
	}
	n.f.published.Store(tx.s)
	return n
}

// TestEndedUsersMakeRoom: the tokens that ended first go, when there is no room, and
// nothing else: no token that is good, and no certificate that was revoked.
func TestEndedUsersMakeRoom(t *testing.T) {
	before := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(epochStart.Add(-d)) }
	n := crowded(t, RoomVersion, func(i int, r *raftv1.UserRecord) {
		switch {
		case i < 10: // certificates, revoked long ago
			r.TokenHash, r.User = "", &tarnv1.User{Id: r.User.Id, CreatedAt: before(9000 * time.Hour), RevokedAt: before(9000 * time.Hour)}
		case i < 20: // revoked
			r.TokenHash, r.User.RevokedAt = "", before(time.Hour)
		case i < 20+roomUsers: // run out, most of them before that
			r.User.ExpiresAt = before(time.Duration(i) * time.Minute)
		}
	})
	n.do(newUser("new", "new"))
	v := n.f.View()
	if got := v.s.users.len(); got != maxUsers-roomUsers+1 {
		t.Errorf("%d users are left", got)
	}
	has := func(i int) bool { _, ok := v.User(fmt.Sprintf("%06d", i)); return ok }
	for i := range 10 {
		if !has(i) || !v.Revoked(fmt.Sprintf("%06d", i)) {
			t.Errorf("certificate %d is not revoked any more", i)
		}
	}
	// The ten ran out latest that did so 20 to 29 minutes ago.
	for i, want := range map[int]bool{10: false, 19: false, 20: true, 29: true, 30: false, 19 + roomUsers: false, 20 + roomUsers: true, maxUsers - 1: true} {
		if has(i) != want {
			t.Errorf("user %d is kept: %t", i, !want)
		}
	}
	if u, ok := v.UserByToken("hash of new"); !ok || u.GetName() != "new" {
		t.Error("the new user is not known")
	}
}

// TestNobodyMakesRoom: without a token that ended a creation is refused, with what to do;
// after one was revoked it is taken. Below its version nobody makes room, as ever.
func TestNobodyMakesRoom(t *testing.T) {
	n := crowded(t, RoomVersion, func(int, *raftv1.UserRecord) {})
	res := n.try(newUser("new", "new"))
	if res.Err == nil || res.Err.Code != ResourceExhausted || !strings.Contains(res.Err.Message, "tarn user revoke") {
		t.Errorf("refused with %v", res.Err)
	}
	n.do(&raftv1.RevokeUser{Id: "of a certificate", Reason: "stolen", By: "op"})
	if res := n.try(newUser("new", "new")); res.Err == nil {
		t.Error("a certificate made room")
	}
	n.do(&raftv1.RevokeUser{Id: "000007", Reason: "left", By: "op"})
	n.do(newUser("new", "new"))
	if _, ok := n.f.View().User("000007"); ok {
		t.Error("who was revoked is still there")
	}
	if !n.f.View().Revoked("of a certificate") {
		t.Error("the certificate is not revoked any more")
	}

	old := crowded(t, RoomVersion-1, func(_ int, r *raftv1.UserRecord) { r.User.ExpiresAt = timestamppb.New(epochStart) })
	if res := old.try(newUser("new", "new")); res.Err == nil || res.Err.Message != "there are 100000 users" {
		t.Errorf("before version %d: %v", RoomVersion, res.Err)
	}
}
