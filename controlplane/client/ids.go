package client

import (
	"github.com/google/uuid"

	tarnv1 "tarn/proto/tarn/v1"
)

// mintIDs fills the idempotency key of requests that create something, so that a
// repetition cannot create it twice. Keys that the caller gave stay.
func mintIDs(msg any) {
	if key := idempotencyKey(msg); key != nil && *key == "" {
		*key = newID()
	}
}

func idempotencyKey(msg any) *string {
	switch m := msg.(type) {
	case *tarnv1.CreateShareTypeRequest:
		return &m.Id
	case *tarnv1.CreateShareRequest:
		return &m.Id
	case *tarnv1.CreateReplicaRequest:
		return &m.Id
	case *tarnv1.CreateSnapshotRequest:
		return &m.Id
	case *tarnv1.AllowAccessRequest:
		return &m.Id
	case *tarnv1.PromoteReplicaRequest:
		return &m.OpId
	}
	return nil
}

// newID returns a version 7 UUID, or a random one should the clock misbehave.
func newID() string {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.NewString()
	}
	return id.String()
}
