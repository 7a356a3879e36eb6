package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type hostCmd struct {
	List    hostList    `cmd:"" help:"List storage hosts."`
	Show    hostShow    `cmd:"" help:"Show one host."`
	Enable  hostEnable  `cmd:"" help:"Let new replicas come again."`
	Disable hostDisable `cmd:"" help:"No new replicas; those there stay."`
	Drain   hostDrain   `cmd:"" help:"Move every replica elsewhere."`
	Remove  hostRemove  `cmd:"" help:"Forget a host without replicas."`
}

var hostView = view[*tarnv1.Host]{
	id: (*tarnv1.Host).GetId,
	list: []column[*tarnv1.Host]{
		{"ID", (*tarnv1.Host).GetId},
		{"NAME", (*tarnv1.Host).GetName},
		{"ZONE", (*tarnv1.Host).GetAvailabilityZone},
		{"STATE", func(h *tarnv1.Host) string { return enumText(h.GetState()) }},
		{"ADMIN STATE", func(h *tarnv1.Host) string { return enumText(h.GetAdminState()) }},
		{"REPLICAS", func(h *tarnv1.Host) string { return fmt.Sprint(h.GetReplicaCount()) }},
		{"POOLS", func(h *tarnv1.Host) string { return poolNames(h, ",") }},
		{"ADDRESS", (*tarnv1.Host).GetAddress},
	},
	detail: []column[*tarnv1.Host]{
		{"ID", (*tarnv1.Host).GetId},
		{"Name", (*tarnv1.Host).GetName},
		{"Zone", (*tarnv1.Host).GetAvailabilityZone},
		{"State", func(h *tarnv1.Host) string { return enumText(h.GetState()) }},
		{"Admin state", func(h *tarnv1.Host) string { return enumText(h.GetAdminState()) }},
		{"Reason", (*tarnv1.Host).GetDisabledReason},
		{"Drain waits for", func(h *tarnv1.Host) string { return strings.Join(h.GetDrainBlockers(), "\n") }},
		{"Replicas", func(h *tarnv1.Host) string { return fmt.Sprint(h.GetReplicaCount()) }},
		{"Pools", func(h *tarnv1.Host) string { return poolNames(h, "\n") }},
		{"Address", (*tarnv1.Host).GetAddress},
		{"Backend", (*tarnv1.Host).GetBackend},
		{"Version", (*tarnv1.Host).GetVersion},
		{"Fence class", fenceText},
		{"Another life", anotherLifeText},
		{"Capabilities", func(h *tarnv1.Host) string { return mapText(h.GetCapabilities()) }},
		{"Last report", func(h *tarnv1.Host) string { return stampText(h.GetLastReportAt()) }},
		{"Created", func(h *tarnv1.Host) string { return stampText(h.GetCreatedAt()) }},
	},
}

// fenceText is what ends a host's leases, and if that is out of order, why.
func fenceText(h *tarnv1.Host) string {
	text, now := enumText(h.GetFenceClass()), h.GetFenceClassNow()
	if now != tarnv1.FenceClass_FENCE_CLASS_UNSPECIFIED && now < h.GetFenceClass() {
		text += ", but " + enumText(now) + " at the moment"
	}
	if h.GetFenceTrouble() != "" {
		text += ": " + h.GetFenceTrouble()
	}
	return text
}

// anotherLifeText tells of a copy of the host that runs beside it.
func anotherLifeText(h *tarnv1.Host) string {
	if h.GetAnotherLifeAt() == nil {
		return ""
	}
	return "a copy of this machine has stopped serving; last heard of " + stampText(h.GetAnotherLifeAt())
}

func poolNames(h *tarnv1.Host, separator string) string {
	names := make([]string, len(h.GetPools()))
	for i, p := range h.GetPools() {
		names[i] = p.GetName()
	}
	return strings.Join(names, separator)
}

type hostList struct {
	watchFlags
	Stale            bool   `help:"Let any node answer from its own state."`
	AvailabilityZone string `name:"availability-zone" aliases:"zone" help:"Zone."`
	State            string `help:"up or down."`
}

func (c *hostList) Run(ctx context.Context, a *app, api *client.Client) error {
	state, err := parseEnum[tarnv1.HostState]("--state", c.State)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		answer, err := api.Hosts.ListHosts(ctx, &tarnv1.ListHostsRequest{
			Consistency: pageFlags{Stale: c.Stale}.consistency(), AvailabilityZone: c.AvailabilityZone, State: state,
		})
		if err != nil {
			return err
		}
		return hostView.printList(a, w, answer.GetHosts())
	})
}

type hostArg struct {
	Host string `arg:"" help:"Name or id."`
}

type hostShow struct {
	watchFlags
	hostArg
}

func (c *hostShow) Run(ctx context.Context, a *app, api *client.Client) error {
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		h, err := api.Hosts.GetHost(ctx, &tarnv1.GetRequest{Id: c.Host})
		if err != nil {
			return err
		}
		return hostView.printOne(a, w, h)
	})
}

type hostEnable struct{ hostArg }

func (c *hostEnable) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.hostID(ctx, c.Host)
	if err != nil {
		return err
	}
	h, err := api.Hosts.EnableHost(ctx, &tarnv1.GetRequest{Id: id})
	if err != nil {
		return err
	}
	return hostView.printOne(a, a.stdout, h)
}

type hostDisable struct {
	hostArg
	Reason string `help:"Shown to people." default:"disabled by an operator"`
}

func (c *hostDisable) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.hostID(ctx, c.Host)
	if err != nil {
		return err
	}
	h, err := api.Hosts.DisableHost(ctx, &tarnv1.DisableHostRequest{Id: id, Reason: c.Reason})
	if err != nil {
		return err
	}
	return hostView.printOne(a, a.stdout, h)
}

type hostDrain struct {
	waitFlags
	hostArg
	Reason string `help:"Shown to people." default:"drained by an operator"`
}

func (c *hostDrain) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.hostID(ctx, c.Host)
	if err != nil {
		return err
	}
	h, err := api.Hosts.DrainHost(ctx, &tarnv1.DisableHostRequest{Id: id, Reason: c.Reason})
	if err != nil {
		return err
	}
	if c.Wait {
		if h, err = a.awaitDrained(ctx, c.waitFlags, h); err != nil {
			return err
		}
	}
	return hostView.printOne(a, a.stdout, h)
}

func (a *app) awaitDrained(ctx context.Context, flags waitFlags, h *tarnv1.Host) (*tarnv1.Host, error) {
	total := max(h.GetReplicaCount(), 1)
	err := a.await(ctx, flags, "drain of "+h.GetName(), func(ctx context.Context) (progress, error) {
		var err error
		if h, err = a.api.Hosts.GetHost(ctx, &tarnv1.GetRequest{Id: h.GetId()}); err != nil {
			return progress{}, err
		}
		left := h.GetReplicaCount()
		text := fmt.Sprintf("%d replicas left", left)
		if blockers := h.GetDrainBlockers(); len(blockers) > 0 {
			text += "; " + blockers[0]
		}
		return progress{done: left == 0, text: text, fraction: 1 - float64(left)/float64(total)}, nil
	})
	return h, err
}

type hostRemove struct{ hostArg }

func (c *hostRemove) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.hostID(ctx, c.Host)
	if err != nil {
		return err
	}
	if _, err := api.Hosts.RemoveHost(ctx, &tarnv1.GetRequest{Id: id}); err != nil {
		return err
	}
	a.printResult(id, "host %s removed", c.Host)
	return nil
}

var poolView = view[*tarnv1.PoolView]{
	id: func(p *tarnv1.PoolView) string { return p.GetPool().GetFullName() },
	list: []column[*tarnv1.PoolView]{
		{"POOL", func(p *tarnv1.PoolView) string { return p.GetPool().GetFullName() }},
		{"ZONE", (*tarnv1.PoolView).GetAvailabilityZone},
		{"STATE", func(p *tarnv1.PoolView) string { return enumText(p.GetState()) }},
		{"ADMIN STATE", func(p *tarnv1.PoolView) string { return enumText(p.GetAdminState()) }},
		{"HEALTH", func(p *tarnv1.PoolView) string { return p.GetPool().GetHealth() }},
		{"DOMAIN", func(p *tarnv1.PoolView) string { return p.GetPool().GetReplicationDomain() }},
		{"TOTAL", func(p *tarnv1.PoolView) string { return gibText(p.GetPool().GetTotalCapacityGib()) }},
		{"FREE", func(p *tarnv1.PoolView) string { return gibText(p.GetPool().GetFreeCapacityGib()) }},
		{"PROVISIONED", func(p *tarnv1.PoolView) string { return gibText(p.GetPool().GetProvisionedCapacityGib()) }},
	},
}

func gibText(gib float64) string { return fmt.Sprintf("%.1f GiB", gib) }

type poolCmd struct {
	List poolList `cmd:"" help:"List pools."`
}

type poolList struct {
	watchFlags
	Stale     bool   `help:"Let any node answer from its own state."`
	ShareType string `help:"Only pools that a share of this type could go to."`
}

func (c *poolList) Run(ctx context.Context, a *app, api *client.Client) error {
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		answer, err := api.Hosts.ListPools(ctx, &tarnv1.ListPoolsRequest{
			Consistency: pageFlags{Stale: c.Stale}.consistency(), ShareType: c.ShareType,
		})
		if err != nil {
			return err
		}
		return poolView.printList(a, w, answer.GetPools())
	})
}

var zoneView = view[*tarnv1.AvailabilityZone]{
	id: (*tarnv1.AvailabilityZone).GetName,
	list: []column[*tarnv1.AvailabilityZone]{
		{"NAME", (*tarnv1.AvailabilityZone).GetName},
		{"HOSTS", func(z *tarnv1.AvailabilityZone) string { return fmt.Sprint(z.GetHosts()) }},
		{"CREATED", func(z *tarnv1.AvailabilityZone) string { return stampText(z.GetCreatedAt()) }},
	},
}

type zoneCmd struct {
	List zoneList `cmd:"" help:"List availability zones."`
}

type zoneList struct{ watchFlags }

func (c *zoneList) Run(ctx context.Context, a *app, api *client.Client) error {
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		answer, err := api.Hosts.ListAvailabilityZones(ctx, &tarnv1.ListAvailabilityZonesRequest{})
		if err != nil {
			return err
		}
		return zoneView.printList(a, w, answer.GetAvailabilityZones())
	})
}
