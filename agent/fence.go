package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"time"

	"tarn/agent/export"
	"tarn/agent/lease"
	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

// Each half of one attempt to take a dataset out of reach is bounded. The next attempt
// follows soon.
const (
	// severTimeout is short: the file system's turn is after it, and both have to be done
	// before the leader takes the lease for ended (lease.wait).
	severTimeout = 2 * time.Second
	fenceTimeout = 10 * time.Second
)

// RunDeadman is the whole of the dead-man's process, which Config.DeadmanCommand
// starts: it fences datasets at the end of their lease when the agent, stopped or
// dead, cannot. dir is the agent's data directory, the last argument of the command.
func RunDeadman(dir string, log *slog.Logger) error {
	clients := export.NewSeverer(dir)
	return lease.DeadmanMain(dir, func(t lease.Target) error { return fence(clients, t) }, log)
}

// fence takes a dataset out of everybody's reach, with nothing but what is on disk
// and what the kernel says: what serves it to clients, and the file system itself.
// One that fails does not keep the other from being done.
func fence(clients *export.Severer, t lease.Target) error {
	severed := sever(clients, t.Dataset)
	switch t.Engine {
	case "":
		return errors.Join(severed, dirzfs.Fence(t.PoolDir, t.Dataset))
	case StorageZFS:
		// A server that hangs must not use up the file system's time.
		ctx, cancel := context.WithTimeout(context.Background(), fenceTimeout)
		defer cancel()
		return errors.Join(severed, zfs.Fence(ctx, t.Dataset))
	}
	return errors.Join(severed, fmt.Errorf("this build cannot fence datasets of engine %q: %w", t.Engine, zfs.ErrUnsupported))
}

// sever takes clients off every mountpoint under which a replica was exported.
func sever(clients *export.Severer, dataset string) error {
	ctx, cancel := context.WithTimeout(context.Background(), severTimeout)
	defer cancel()
	return clients.Sever(ctx, func(e export.Export) bool {
		// A share that was taken over is mounted where it was before.
		return path.Base(e.Mountpoint) == path.Base(dataset) || e.Source == dataset
	})
}
