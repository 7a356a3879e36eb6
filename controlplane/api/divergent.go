package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	tarnv1 "tarn/proto/tarn/v1"
)

// ListDivergentCopies implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) ListDivergentCopies(context.Context, *tarnv1.ListDivergentCopiesRequest) (*tarnv1.ListDivergentCopiesResponse, error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("not yet"))
}

// GetDivergentCopy implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) GetDivergentCopy(context.Context, *tarnv1.GetDivergentCopyRequest) (*tarnv1.DivergentDetail, error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("not yet"))
}

// PurgeDivergentCopy implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) PurgeDivergentCopy(context.Context, *tarnv1.PurgeDivergentCopyRequest) (*tarnv1.DivergentCopy, error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("not yet"))
}
