package api

import (
	"bytes"
	"crypto/sha256"
	"sync"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// revocations is the list that storage hosts go by among themselves, made once for each
// change of it. Safe for concurrent use.
type revocations struct {
	mu    sync.Mutex
	stamp any
	said  *tarnv1.Revocations
}

// of returns the list of the view, which nobody may change.
func (r *revocations) of(v *raftfsm.View) *tarnv1.Revocations {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said != nil && r.stamp == v.UsersStamp() {
		return r.said
	}
	said, hash := &tarnv1.Revocations{}, sha256.New()
	for u := range v.Users() {
		if u.GetRevokedAt() != nil {
			said.Ids = append(said.Ids, u.GetId())
			// A hash.Hash never fails.
			_, _ = hash.Write([]byte(u.GetId() + "\n"))
		}
	}
	said.Digest = hash.Sum(nil)
	r.stamp, r.said = v.UsersStamp(), said
	return said
}

// unless returns the list, or nil if digest is of it.
func (r *revocations) unless(v *raftfsm.View, digest []byte) *tarnv1.Revocations {
	if said := r.of(v); !bytes.Equal(said.GetDigest(), digest) {
		return said
	}
	return nil
}
