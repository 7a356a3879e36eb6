package api

import (
	"context"

	tarnv1 "tarn/proto/tarn/v1"
)

// Gossip is this node's part in what the members of the gossip ring are told over mTLS.
// Nothing is decided by what the ring itself says. Errors of Rotate are the caller's to
// read.
type Gossip interface {
	// KeyFile is what those who join are given: the key in use, and the whole file. Both
	// are empty without a ring.
	KeyFile() (first, file []byte)
	// Orders are what a storage host in the ring lacks; nil for nothing.
	Orders(*tarnv1.GossipState) *tarnv1.GossipOrders
	// Exchange takes what another control-plane node has and answers with what is here.
	Exchange(*tarnv1.ExchangeGossipRequest) (*tarnv1.ExchangeGossipResponse, error)
	// Rotate begins a rotation of the key in the name of an actor, or lets one that is under
	// way go on, in that of whoever began it.
	Rotate(ctx context.Context, by string) error
	// Keys says how far the members are, as far as this leader knows.
	Keys() *tarnv1.GossipKeys
}

// noGossip is a node without.
type noGossip struct{}

// KeyFile implements Gossip.
func (noGossip) KeyFile() (first, file []byte) { return nil, nil }

// Orders implements Gossip.
func (noGossip) Orders(*tarnv1.GossipState) *tarnv1.GossipOrders { return nil }

// Exchange implements Gossip.
func (noGossip) Exchange(*tarnv1.ExchangeGossipRequest) (*tarnv1.ExchangeGossipResponse, error) {
	return &tarnv1.ExchangeGossipResponse{State: &tarnv1.GossipState{}}, nil
}

// Rotate implements Gossip.
func (noGossip) Rotate(context.Context, string) error { return refused("", "this node has no gossip") }

// Keys implements Gossip.
func (noGossip) Keys() *tarnv1.GossipKeys { return &tarnv1.GossipKeys{} }

// GetGossipKeys implements tarnv1connect.OperatorServiceHandler, on the leader.
func (s *operators) GetGossipKeys(ctx context.Context, _ *tarnv1.GetGossipKeysRequest) (*tarnv1.GossipKeys, error) {
	if _, err := s.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	return s.Gossip.Keys(), nil
}

// RotateGossipKey implements tarnv1connect.OperatorServiceHandler. Who began it stands in
// the key files, beside what they are for, and in the audit file of the leader: the log
// knows nothing of the ring.
func (s *operators) RotateGossipKey(ctx context.Context, _ *tarnv1.RotateGossipKeyRequest) (*tarnv1.GossipKeys, error) {
	if _, err := s.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	actor := callerFrom(ctx).actor()
	if err := s.Gossip.Rotate(ctx, actor); err != nil {
		return nil, err
	}
	s.Logger.Info("the key of the gossip ring is rotated", "actor", actor)
	return s.Gossip.Keys(), nil
}

// ExchangeGossip implements tarnv1connect.OperatorServiceHandler. Control nodes only, which
// have the keys anyway.
func (s *operators) ExchangeGossip(ctx context.Context, req *tarnv1.ExchangeGossipRequest) (*tarnv1.ExchangeGossipResponse, error) {
	if who := callerFrom(ctx); who.identity.ID != req.GetId() {
		return nil, denied("field id: the certificate is of node %s", who.identity.ID)
	}
	answer, err := s.Gossip.Exchange(req)
	if err != nil {
		return nil, invalid("keyring", "%v", err)
	}
	return answer, nil
}
