package cli

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"tarn/cmd/tarn/notify"
)

// daemon is what a service manager may want to hear of.
type daemon interface {
	Run(ctx context.Context) error
	// Alive returns nil when the daemon has proved that it is at work.
	Alive(ctx context.Context) error
}

// supervised runs d and tells the service manager, if one started this process, that it
// is up and that it lives.
func (a *app) supervised(ctx context.Context, d daemon) error {
	manager, err := notify.FromEnv(a.env)
	if err != nil {
		return usage("%w", err)
	}
	log := a.daemonLog()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var watch errgroup.Group
	watch.Go(func() error { return manager.Watch(watching, d.Alive, log) })
	err = d.Run(ctx)
	stop()
	// What the manager was not told is no reason for the daemon to have failed.
	if untold := watch.Wait(); untold != nil {
		log.Error("service manager was not told", "err", untold)
	}
	return err
}

// up is for a daemon that knows itself when it is.
func (a *app) up() (func(), error) {
	manager, err := notify.FromEnv(a.env)
	if err != nil {
		return nil, usage("%w", err)
	}
	return func() {
		if err := manager.Ready(); err != nil {
			a.daemonLog().Error("service manager was not told", "err", err)
		}
	}, nil
}

// daemonLog is for what the configuration of a daemon's own log does not reach.
func (a *app) daemonLog() *slog.Logger { return slog.New(slog.NewTextHandler(a.stderr, nil)) }
