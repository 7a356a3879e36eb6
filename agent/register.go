package agent

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

const gib = float64(1 << 30)

// describe is what the control plane is told about this host.
func (a *Agent) describe(ctx context.Context) *tarnv1.Host {
	status := a.pools.status()
	host := &tarnv1.Host{
		Id: a.hostID, Name: a.cfg.Name, AvailabilityZone: a.cfg.AvailabilityZone, Address: a.cfg.Advertise,
		Backend: a.cfg.Backend, Version: a.cfg.Version, FenceClass: a.fenceClass(), SessionId: a.session,
		Capabilities: a.features(ctx), GossipAddress: a.ring.address(ctx), Machine: a.cfg.Machine,
	}
	for _, p := range a.cfg.Pools {
		host.Pools = append(host.Pools, describePool(p, find(status, p.Name)))
	}
	return host
}

// describePool joins what is configured with what is there. A pool that the
// storage does not know is shown as what it is: unavailable.
func describePool(p PoolConfig, status zfs.PoolStatus) *tarnv1.Pool {
	pool := &tarnv1.Pool{
		Name: p.Name, ReplicationDomain: p.ReplicationDomain,
		TotalCapacityGib: float64(status.Size) / gib, FreeCapacityGib: float64(status.Free) / gib,
		ReservedPercentage: p.ReservedPercentage, MaxOverSubscriptionRatio: p.MaxOverSubscriptionRatio,
		ThinProvisioning: true, StorageProtocol: "NFS", Capabilities: maps.Clone(p.Capabilities),
		Health: or(status.Health, unavailable),
	}
	if status.GUID != 0 {
		pool.Guid = status.GUID.String()
	}
	if p.ReplicationDomain != "" {
		pool.ReplicationTypes = []tarnv1.ReplicationType{
			tarnv1.ReplicationType_REPLICATION_TYPE_READABLE, tarnv1.ReplicationType_REPLICATION_TYPE_DR,
		}
	}
	return pool
}

// features are the storage's capabilities. A storage that does not answer has none:
// the host registers all the same, and again when it does.
func (a *Agent) features(ctx context.Context) map[string]string {
	caps, err := a.storage.Capabilities(ctx)
	if err != nil {
		a.log.Error("storage does not tell what it can do", "err", err)
		return map[string]string{"storage_engine": a.cfg.Storage}
	}
	all := features(caps)
	all[encryptionFeature] = strconv.FormatBool(caps.Encryption && a.keys != nil)
	return all
}

// encryptionFeature is what types with tarn:encryption=on ask of a host.
const encryptionFeature = "tarn:encryption"

// features are capabilities as share types can ask for them.
func features(c zfs.Capabilities) map[string]string {
	all := map[string]string{"storage_engine": c.Engine, "storage_version": c.Version}
	for name, on := range flags(c) {
		all[name] = strconv.FormatBool(on)
	}
	return all
}

func flags(c zfs.Capabilities) map[string]bool {
	return map[string]bool{
		"zfs_resume": c.Resume, "zfs_bookmarks": c.Bookmarks, "zfs_written": c.Written,
		"zfs_multi_snapshot": c.MultiSnapshot, "zfs_holds_listed": c.HoldsListed, "zfs_clones": c.Clones,
		"zfs_compressed": c.Compressed, "zfs_large_blocks": c.LargeBlocks, "zfs_raw": c.Raw,
	}
}

// capabilityHash changes when any of the capabilities does.
func capabilityHash(features map[string]string) uint64 {
	hash := fnv.New64a()
	for _, key := range slices.Sorted(maps.Keys(features)) {
		// A hash.Hash never fails.
		_, _ = fmt.Fprintf(hash, "%s=%s\n", key, features[key])
	}
	return hash.Sum64()
}

// announce registers anew whenever a pool has come back, or the storage with it:
// what the host has and can do may be different.
func (a *Agent) announce(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.announceKick:
		}
		if err := a.register(ctx, func() {}); err != nil {
			return ended(ctx, err)
		}
	}
}

// spread tells the ring what the host can do now.
func (a *Agent) spread(features map[string]string) {
	if a.ring == nil {
		return
	}
	a.ring.ring.Again() // others let this host in now
	if err := a.ring.ring.SetMeta(a.gossipMeta(features)); err != nil {
		a.log.Debug("capabilities were not gossiped yet", "err", err)
	}
}

// poolsChanged lets everybody look anew at pools that came back, or are gone.
func (a *Agent) poolsChanged(usable, lost []string) {
	for _, pool := range append(usable, lost...) {
		a.workers.recheckPool(pool)
	}
	a.sweepSoon()
	a.reports.soon()
	if a.registered.Load() {
		select {
		case a.announceKick <- struct{}{}:
		default:
		}
	}
}

// enlist is register for the loop that follows the assignments.
func (a *Agent) enlist(ctx context.Context) error {
	a.pulses.rest(loopFollow) // the storage says what it can do
	return a.register(ctx, func() { a.pulses.turn(loopFollow) })
}

// register announces the host until the control plane has taken note. turn is told of
// each attempt.
func (a *Agent) register(ctx context.Context, turn func()) error {
	host := a.describe(ctx)
	for name, on := range host.GetCapabilities() {
		if on == "true" {
			a.counters.StorageCapability.WithLabelValues(a.cfg.Name, name).Set(1)
		}
	}
	for failures := 0; ; failures++ {
		turn()
		resp, err := call(ctx, a, "Register", callTimeout, a.control.Register, &tarnv1.RegisterRequest{Host: host})
		if err == nil {
			a.revoke(resp.GetRevocations())
			a.registered.Store(true)
			a.spread(host.GetCapabilities())
			a.log.Info("registered", "host", a.hostID, "session", a.session, "cluster", resp.GetClusterId())
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.log.Warn("control plane does not take the registration yet", "attempt", failures+1, "err", err)
		if err := backoff(ctx, failures); err != nil {
			return err
		}
	}
}
