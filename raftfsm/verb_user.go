package raftfsm

import (
	"iter"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

const (
	// maxUsers bounds the table for those who want in: users that are revoked or expired
	// make room, others do not. Revoked certificates count and are never refused.
	maxUsers = 100_000
	// roomUsers is how many of them go at once, so that not every creation has to look.
	roomUsers = 1000
)

func (s *state) user(id string) (*raftv1.UserRecord, bool) {
	return s.users.get(&raftv1.UserRecord{User: &tarnv1.User{Id: id}})
}

func (s *state) userByToken(hash string) (*raftv1.UserRecord, bool) {
	return first(s.users.from(userByToken, &raftv1.UserRecord{TokenHash: hash},
		func(r *raftv1.UserRecord) bool { return r.GetTokenHash() == hash && hash != "" }))
}

func (s *state) userNamed(name string) (*raftv1.UserRecord, bool) {
	for r := range s.users.all() {
		if r.GetUser().GetName() == name && name != "" && r.GetUser().GetRevokedAt() == nil {
			return r, true
		}
	}
	return nil, false
}

// createUser stores a user and its token's hash. The name of a revoked user is free again.
func (tx *txn) createUser(c *raftv1.PutUser) (*tarnv1.User, *Error) {
	u := c.GetUser()
	switch {
	case u.GetId() == "":
		return nil, refuse(InvalidArgument, "id", "must be set")
	case u.GetName() == "" || len(u.GetName()) > maxName:
		return nil, refuse(InvalidArgument, "name", "must have 1 to %d bytes", maxName)
	case u.GetRole() == "" || u.GetExpiresAt() == nil || u.GetRevokedAt() != nil:
		return nil, refuse(InvalidArgument, "role", "and an end must be set")
	case c.GetTokenHash() == "":
		return nil, refuse(InvalidArgument, "token_hash", "must be set")
	}
	if _, exists := tx.s.user(u.GetId()); exists {
		return nil, refuse(AlreadyExists, "id", "user %q exists, and its token was shown already; revoke it and make another", u.GetId())
	}
	if _, exists := tx.s.userByToken(c.GetTokenHash()); exists {
		return nil, refuse(AlreadyExists, "token_hash", "the token exists")
	}
	if old, taken := tx.s.userNamed(u.GetName()); taken {
		return nil, refuse(AlreadyExists, "name", "user %s is named %q; revoke it first", old.GetUser().GetId(), u.GetName())
	}
	if tx.s.users.len() >= maxUsers {
		if err := tx.makeRoomForUsers(); err != nil {
			return nil, err
		}
	}
	u.CreatedAt = tx.now
	mutable(tx.own, &tx.s.users).put(&raftv1.UserRecord{User: u, TokenHash: c.GetTokenHash()})
	return u, nil
}

// makeRoomForUsers forgets users whose tokens are good for nothing any more, those first
// that ended first. Whatever they did has their names in the audit log. Revoked
// certificates stay: what keeps their holders out is that they are here.
func (tx *txn) makeRoomForUsers() *Error {
	if tx.s.minVersion < RoomVersion {
		return refuse(ResourceExhausted, "", "there are %d users", maxUsers)
	}
	type ended struct {
		at  time.Time
		rec *raftv1.UserRecord
	}
	var all []ended
	for r := range tx.s.users.all() {
		if at, is := endOfUser(r.GetUser(), tx.now.AsTime()); is {
			all = append(all, ended{at, r})
		}
	}
	if len(all) == 0 {
		return refuse(ResourceExhausted, "", "there are %d users and revoked certificates, and no user's token has ended: "+
			"find users that are not needed with `tarn user list`, and end one with `tarn user revoke` for each that you create", maxUsers)
	}
	// They come by id, which decides between equals.
	slices.SortStableFunc(all, func(a, b ended) int { return a.at.Compare(b.at) })
	users := mutable(tx.own, &tx.s.users)
	for _, e := range all[:min(len(all), roomUsers)] {
		users.remove(e.rec)
	}
	return nil
}

// endOfUser tells when a user's token ended, if it did by now. What was never a user, a
// certificate, has no role and no end.
func endOfUser(u *tarnv1.User, now time.Time) (time.Time, bool) {
	end := u.GetExpiresAt().AsTime()
	if at := u.GetRevokedAt(); at != nil && at.AsTime().Before(end) {
		end = at.AsTime()
	}
	return end, u.GetRole() != "" && !now.Before(end)
}

// revokeUser ends a user, or an identity that has a certificate. It stays revoked: a
// certificate of that id could still be somewhere. The token's hash is forgotten.
func (tx *txn) revokeUser(c *raftv1.RevokeUser) (*tarnv1.User, *Error) {
	if c.GetId() == "" {
		return nil, refuse(InvalidArgument, "id", "must be set")
	}
	next := &tarnv1.User{Id: c.GetId(), CreatedAt: tx.now}
	if old, exists := tx.s.user(c.GetId()); exists {
		if old.GetUser().GetRevokedAt() != nil {
			return old.GetUser(), nil
		}
		next = proto.CloneOf(old.GetUser())
	}
	next.RevokedAt, next.RevokedBy, next.RevokedReason = tx.now, c.GetBy(), c.GetReason()
	mutable(tx.own, &tx.s.users).put(&raftv1.UserRecord{User: next})
	return next, nil
}

// User finds a user, or a revoked certificate, by id.
func (v *View) User(id string) (*tarnv1.User, bool) {
	r, ok := v.s.user(id)
	return r.GetUser(), ok
}

// UserNamed finds a user that is not revoked by its name, in linear time.
func (v *View) UserNamed(name string) (*tarnv1.User, bool) {
	r, ok := v.s.userNamed(name)
	return r.GetUser(), ok
}

// UserByToken finds a user by the hash of its token; revoked ones are not found.
func (v *View) UserByToken(hash string) (*tarnv1.User, bool) {
	r, ok := v.s.userByToken(hash)
	return r.GetUser(), ok
}

// Users yields all users and revoked certificates by id.
func (v *View) Users() iter.Seq[*tarnv1.User] {
	return func(yield func(*tarnv1.User) bool) {
		for r := range v.s.users.all() {
			if !yield(r.GetUser()) {
				return
			}
		}
	}
}

// Revoked tells whether an identity, a user's or a certificate's, is refused for good.
func (v *View) Revoked(id string) bool {
	u, ok := v.User(id)
	return ok && u.GetRevokedAt() != nil
}

// UsersStamp is equal (==) in two views of one state machine only if they have the same
// users and revocations. It keeps no more of the state alive than those.
func (v *View) UsersStamp() any { return v.s.users }
