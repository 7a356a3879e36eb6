package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"sync/atomic"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"tarn/controlplane/client"
	raftv1 "tarn/proto/tarn/raft/v1"
	"tarn/raftfsm"
)

// A caller that sends a key with its request, a UUID of its own, may send the same
// request again for as long as the state remembers keys: what it asked for is done once
// and answered every time as the first time, also by another leader. The commands that a
// request takes are numbered, so that a repetition goes the way that the first went.

const (
	keyHeader       = client.KeyHeader
	keepsKeysHeader = client.KeepsKeysHeader
)

// requestKey is the key of a request under way.
type requestKey struct {
	key    string
	digest []byte
	steps  atomic.Uint32
}

type requestKeyKey struct{}

// stepKey is the key of the request's next command; nil for a request without one.
func stepKey(ctx context.Context) *raftv1.RequestKey {
	k, ok := ctx.Value(requestKeyKey{}).(*requestKey)
	if !ok {
		return nil
	}
	return &raftv1.RequestKey{Key: k.key, Digest: k.digest, Step: k.steps.Add(1) - 1}
}

// repetition tells whether the request under way was done before, at least in part: then
// what it finds may be its own work.
func (c *core) repetition(ctx context.Context) bool {
	k, ok := ctx.Value(requestKeyKey{}).(*requestKey)
	if !ok {
		return false
	}
	_, known := c.outcome(ctx, &raftv1.RequestKey{Key: k.key, Digest: k.digest})
	return known
}

func (c *core) outcome(ctx context.Context, key *raftv1.RequestKey) (*raftfsm.Result, bool) {
	if key == nil {
		return nil, false
	}
	return c.State.View().Outcome(callerFrom(ctx).actor(), key)
}

// keying reads the key of a request before its handler changes the message.
type keying struct{ unaryOnly }

// WrapUnary implements connect.Interceptor.
func (keying) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		given := req.Header().Get(keyHeader)
		if given == "" {
			return next(ctx, req)
		}
		id, err := uuid.Parse(given)
		if err != nil {
			return nil, invalid(keyHeader, "is a UUID, a new one for each request")
		}
		msg, ok := req.Any().(proto.Message)
		if !ok {
			return nil, errors.New("request is not a protobuf message")
		}
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
		if err != nil {
			return nil, err
		}
		h := sha256.New()
		for _, part := range []string{req.Spec().Procedure, callerFrom(ctx).project} {
			h.Write([]byte(part))
			h.Write([]byte{0})
		}
		h.Write(body)
		return next(context.WithValue(ctx, requestKeyKey{}, &requestKey{key: id.String(), digest: h.Sum(nil)}), req)
	}
}

// tellKeys says with every answer, also with refusals, that keys are remembered: whoever
// has read that once may repeat what it would not dare to without.
func tellKeys(w http.ResponseWriter, v *raftfsm.View) {
	if v.CommandVersion() >= raftfsm.KeyVersion {
		w.Header().Set(keepsKeysHeader, "yes")
	}
}
