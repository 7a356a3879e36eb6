package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/agent/export"
	"tarn/controlplane/identity"
	"tarn/metrics"
	"tarn/zfs"
)

// retireTimeout bounds the unmounting at the end; the dead-man does what is left.
const retireTimeout = 10 * time.Second

// Run takes part in the cluster until ctx ends. Then the workers stop, what this
// host serves for writing is unmounted, and the storage is closed; demotion is
// not for an agent to decide. It returns nil after a clean end. When another life of the
// host goes on, work ends at once, and the agent stays to say so until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	defer a.hangUp()
	// What must outlive the work: streams to others, metrics, the dead-man.
	lasting, stopLasting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLasting()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	services, lasting := errgroup.WithContext(lasting)
	context.AfterFunc(lasting, stop)
	a.services(lasting, services)
	err := a.live(ctx, lasting, services)
	err = errors.Join(err, a.retire())
	stopLasting()
	err = errors.Join(err, services.Wait())
	return errors.Join(err, a.storage.Close())
}

// live works and serves other hosts, until ctx ends or another life of this host goes on.
func (a *Agent) live(ctx, lasting context.Context, services *errgroup.Group) error {
	working, stop := a.only.while(ctx)
	defer stop()
	if a.only.isOver() {
		if err := ended(ctx, a.begin(ctx)); err != nil {
			a.log.Error("what an earlier run served could not be taken over", "err", err)
		}
		a.guard(lasting, services)
		return a.stayAside(ctx)
	}
	serving, hide := context.WithCancel(lasting)
	context.AfterFunc(lasting, hide)
	a.serveOthers(serving, services)
	err := ended(working, a.begin(working))
	if err == nil {
		a.guard(lasting, services)
		err = a.work(working)
	}
	if err != nil || !a.only.isOver() {
		return err
	}
	hide()
	return a.stayAside(ctx)
}

// services run from before the first worker until after the last.
func (a *Agent) services(ctx context.Context, group *errgroup.Group) {
	admin := metrics.Admin{
		Addr: a.cfg.Admin.Listen, Listener: a.cfg.AdminSocket, Gatherer: a.registry, Ready: a.Ready, Pprof: a.cfg.Admin.Pprof,
		Admit: identity.NewAdmission(identity.AdminLimits()).Listener,
	}
	group.Go(func() error { return admin.Run(ctx) })
	group.Go(func() error { return a.exports.Run(ctx) })
	group.Go(func() error { return a.renew(ctx) })
}

// guard runs the dead-man. It begins when nothing is writable: its first helper says that
// there is nothing to guard, and what backed an earlier one, which may be dead, lets go.
func (a *Agent) guard(ctx context.Context, group *errgroup.Group) {
	if a.deadman != nil {
		group.Go(func() error { return a.deadman.Run(ctx) })
	}
}

// serveOthers is what other hosts see of this one; it runs as long.
func (a *Agent) serveOthers(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error { return a.serve(ctx) })
	if a.door != nil {
		group.Go(func() error { return ended(ctx, a.door.Run(ctx)) })
	}
	if a.ring != nil {
		group.Go(func() error { return ended(ctx, a.ring.ring.Run(ctx)) })
	}
}

// begin makes sure that nothing is writable.
func (a *Agent) begin(ctx context.Context) error {
	if here, ok := a.exports.(export.Recorder); ok {
		if err := export.Succeed(ctx, a.cfg.DataDir, here); err != nil {
			return err
		}
	}
	a.pools.look(ctx)
	return nil
}

// work is the agent's life: it follows the control plane.
func (a *Agent) work(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	a.workers.begin(ctx)
	group.Go(func() error { return ended(ctx, a.keeper.Run(ctx)) })
	group.Go(func() error { return ended(ctx, a.feed.Run(ctx)) })
	for _, cadence := range a.cadences {
		group.Go(func() error { return ended(ctx, cadence.Run(ctx)) })
	}
	group.Go(func() error { return a.pools.run(ctx) })
	group.Go(func() error { return a.damages.run(ctx) })
	group.Go(func() error { return a.sharing().run(ctx) })
	group.Go(func() error { return a.sweeps(ctx) })
	group.Go(func() error {
		if err := a.enlist(ctx); err != nil {
			return ended(ctx, err)
		}
		group.Go(func() error { return a.announce(ctx) })
		group.Go(func() error { return a.reports.run(ctx) })
		group.Go(func() error { return a.reports.inquiries.run(ctx) })
		group.Go(func() error { return a.purges.run(ctx) })
		return a.follow(ctx)
	})
	err := group.Wait()
	// Only now, when nobody starts workers any more, can their end be awaited.
	a.workers.wait()
	return err
}

// ended turns the end of ctx, which is how everything stops, into no error.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// preparePool makes the dataset above a pool's replicas, and takes out of reach what
// an earlier life left writable: there is no lease for it yet.
func (a *Agent) preparePool(ctx context.Context, pool string) error {
	caps, err := a.storage.Capabilities(ctx)
	if err != nil {
		return fmt.Errorf("ask storage for its capabilities: %w", err)
	}
	a.able.Store(&caps)
	err = a.storage.Create(ctx, a.root(pool), a.rootProperties(pool), true)
	if errors.Is(err, zfs.ErrExists) {
		err = a.setRoot(ctx, pool)
	}
	if err != nil {
		return fmt.Errorf("prepare %s: %w", a.root(pool), err)
	}
	if err := a.orphans.quiesce(ctx, pool); err != nil {
		// A client holds on to it. Workers and the dead-man go on trying.
		a.log.Error("what an earlier run left writable could not be unmounted yet", "pool", pool, "err", err)
	}
	return nil
}

// setRoot gives the dataset above all replicas the properties that it lacks. Setting
// one mounts what is below anew, which fails while clients have it open: so those that
// are as they should be are left alone.
func (a *Agent) setRoot(ctx context.Context, pool string) error {
	want := a.rootProperties(pool)
	have, err := a.storage.Get(ctx, a.root(pool), slices.Sorted(maps.Keys(want))...)
	if err != nil {
		return err
	}
	maps.DeleteFunc(want, func(name, value string) bool {
		return have[name].Value == value && have[name].Source == zfs.SourceLocal
	})
	if len(want) == 0 {
		return nil
	}
	return a.storage.Set(ctx, a.root(pool), want)
}

// retire ends what clients can write. The dead-man keeps what could not be
// unmounted, until its deadline.
func (a *Agent) retire() error {
	ctx, cancel := context.WithTimeout(context.Background(), retireTimeout)
	defer cancel()
	err := a.orphans.quiesce(ctx, a.pools.present()...)
	a.countFence("retire", err)
	if err != nil {
		return fmt.Errorf("unmount before the end: %w", err)
	}
	for _, as := range a.workers.assignments() {
		a.keeper.Settled(a.target(as))
	}
	return nil
}

func (a *Agent) sweepSoon() {
	select {
	case a.sweepKick <- struct{}{}:
	default:
	}
}

// sweeps looks for orphans after each change of assignments and now and then;
// never before the first, when everything would be one.
func (a *Agent) sweeps(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.sweepKick:
		case <-ticker.C:
		}
		if !a.heard() {
			continue
		}
		if err := a.orphans.sweep(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("datasets could not be looked through", "err", err)
		}
		a.reports.soon() // with what has no replica here any more
	}
}
