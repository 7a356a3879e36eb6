package agent

import (
	"context"
	"io"

	"tarn/agent/replicate"
	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// ControlPlane is what the agent calls. tarnv1connect.AgentServiceClient
// satisfies it; retries and finding the leader are its own affair.
type ControlPlane interface {
	Register(ctx context.Context, req *tarnv1.RegisterRequest) (*tarnv1.RegisterResponse, error)
	Assignments(ctx context.Context, req *tarnv1.AssignmentsRequest) (*tarnv1.AssignmentsResponse, error)
	Report(ctx context.Context, req *tarnv1.ReportRequest) (*tarnv1.ReportResponse, error)
	RenewLease(ctx context.Context, req *tarnv1.RenewLeaseRequest) (*tarnv1.RenewLeaseResponse, error)
}

// Inventory says what the storage is and has.
type Inventory interface {
	Capabilities(ctx context.Context) (zfs.Capabilities, error)
	Pools(ctx context.Context) ([]zfs.PoolStatus, error)
}

// Storage is the engine of one host: what replication, streams and registration
// ask of it. Closed when Run has ended.
type Storage interface {
	replicate.Engine
	replicate.CadenceEngine
	stream.Engine
	Inventory
	surveyor
	sharer
	io.Closer
}
