package controlplane

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"tarn/controlplane/observe"
	"tarn/controlplane/reconcile"
	"tarn/controlplane/stonith"
)

// StonithConfig is a command that switches storage hosts off, one [[stonith]] each.
// Its success is a proof that a host does not write (reliability.md 3.4). Of several
// that fit a host the first counts. Commands run on the leader, without a shell; {name},
// {id} and {address} in their arguments are the host's.
type StonithConfig struct {
	// Hosts are names, or patterns such as "nas-*". Required.
	Hosts []string `toml:"hosts"`
	// Off switches a host off: program with its absolute path, then arguments; it exits
	// with 0. Required.
	Off []string `toml:"off"`
	// Status asks for a host's state in the same way. Required: that Off went well is no
	// proof.
	Status []string `toml:"status"`
	// OffExit is what Status exits with for a host that is off. Default 2, as with the
	// fence agents of ClusterLabs.
	OffExit *int `toml:"off_exit"`
	// Timeout of both together, 1 s to 10 min. Default 1 min.
	Timeout time.Duration `toml:"timeout"`
	// Always switches a lost host off although its silence would prove enough.
	Always bool `toml:"always"`
}

func stonithDefaults(all []StonithConfig) []StonithConfig {
	out := make([]StonithConfig, len(all))
	for i, s := range all {
		s.Timeout = or(s.Timeout, time.Minute)
		s.OffExit = or(s.OffExit, new(2))
		out[i] = s
	}
	return out
}

func (s StonithConfig) command() stonith.Command {
	return stonith.Command{Off: s.Off, Status: s.Status, OffExit: *s.OffExit, Timeout: s.Timeout}
}

func validateStonith(v *validator, all []StonithConfig) {
	for i, s := range all {
		key := fmt.Sprintf("stonith[%d]", i)
		v.check(len(s.Hosts) > 0, "%s.hosts is required: names of storage hosts, or patterns", key)
		for _, pattern := range s.Hosts {
			_, err := path.Match(pattern, "")
			v.check(err == nil && pattern != "", "%s.hosts: %q is not a pattern", key, pattern)
		}
		if err := s.command().Validate(); err != nil {
			v.check(false, "%s: %w", key, err)
		}
	}
}

func stonithRules(all []StonithConfig) []reconcile.StonithRule {
	var rules []reconcile.StonithRule
	for _, s := range all {
		rules = append(rules, reconcile.StonithRule{Hosts: s.Hosts, Always: s.Always})
	}
	return rules
}

const (
	// stonithLook is how often the leader looks for hosts to switch off: silence grows
	// without an event.
	stonithLook = 500 * time.Millisecond
	// stonithRetry is the pause after a command that failed.
	stonithRetry = 15 * time.Second
)

// switchOff runs the commands that promotions wait for while this node leads. Before
// each it asks the others whether it still leads: a node that was put to sleep must not
// act on what it remembers.
func (n *Node) switchOff(ctx context.Context) error {
	ticker := time.NewTicker(stonithLook)
	defer ticker.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := time.Now()
		n.soft.ForgetStonith(now.Add(-stonithRetry))
		view := n.fsm.View()
		for _, shot := range reconcile.StonithDue(n.policy(), view, n.soft.Snapshot(now, n.leases)) {
			n.soft.SetStonith(observe.StonithResult{At: now}, shot.OpIDs...)
			running.Go(func() { n.shoot(ctx, shot) })
		}
	}
}

// errAlive ends a shot at a host that has come back meanwhile.
var errAlive = errors.New("the host is heard of again")

func (n *Node) shoot(ctx context.Context, shot reconcile.Shot) {
	proof, err := n.runShot(ctx, shot)
	result := observe.StonithResult{Proof: proof, At: time.Now()}
	switch {
	case ctx.Err() != nil:
		return // A new leader begins anew.
	case err != nil:
		result.Trouble = err.Error()
		n.counters.Stonith.WithLabelValues("failed").Inc()
		n.log.Error("host was not switched off; it is tried again", "host", shot.HostID, "promotions", shot.OpIDs, "err", err)
	default:
		n.counters.Stonith.WithLabelValues("off").Inc()
		n.log.Warn("host was switched off", "host", shot.HostID, "promotions", shot.OpIDs, "proof", proof)
	}
	n.soft.SetStonith(result, shot.OpIDs...)
}

func (n *Node) runShot(ctx context.Context, shot reconcile.Shot) (string, error) {
	if _, err := n.commands.ReadIndex(ctx); err != nil {
		return "", err
	}
	if n.soft.Snapshot(time.Now(), nil).Heard(shot.HostID) {
		return "", errAlive
	}
	host, ok := n.fsm.View().Host(shot.HostID)
	if !ok {
		return "", fmt.Errorf("host %s is not registered any more", shot.HostID)
	}
	n.log.Warn("switching a host off", "host", host.GetName(), "promotions", shot.OpIDs)
	return n.cfg.Stonith[shot.Rule].command().Run(ctx, stonith.Host{ID: host.GetId(), Name: host.GetName(), Address: host.GetAddress()})
}
