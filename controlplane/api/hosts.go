package api

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/observe"
	"tarn/controlplane/reconcile"
	"tarn/controlplane/schedule"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// hosts is HostService.
type hosts struct{ *core }

func hostByRef(v *raftfsm.View, ref string) (*tarnv1.Host, error) {
	if h, ok := v.Host(ref); ok {
		return h, nil
	}
	if h, ok := v.HostByName(ref); ok {
		return h, nil
	}
	return nil, notFound("host", ref)
}

// heard takes a snapshot of what was heard when it is first needed: it is as large as the
// cluster, and one is enough for any number of hosts.
func (s *hosts) heard() func() *observe.Snapshot {
	return sync.OnceValue(func() *observe.Snapshot { return s.Soft.Snapshot(time.Now(), s.Leases) })
}

// print adds what the leader heard and what the state promises on each pool.
func (s *hosts) print(v *raftfsm.View, stored *tarnv1.Host, heard func() *observe.Snapshot) *tarnv1.Host {
	h := v.ProjectHost(stored)
	if seen, ok := s.Soft.Host(h.GetId()); ok {
		h.LastReportAt, h.FenceClassNow, h.FenceTrouble = timestamppb.New(seen.At), seen.FenceClass, seen.FenceTrouble
	}
	h.AnotherLifeAt = nil
	if at, _ := s.Soft.OtherLife(h.GetId(), time.Now()); !at.IsZero() {
		h.AnotherLifeAt = timestamppb.New(at)
	}
	for _, p := range h.GetPools() {
		if m, ok := s.Soft.Pool(h.GetId(), p.GetName()); ok {
			p.TotalCapacityGib, p.FreeCapacityGib, p.Health = m.GetTotalCapacityGib(), m.GetFreeCapacityGib(), m.GetHealth()
			p.AllocatedCapacityGib = max(p.GetTotalCapacityGib()-p.GetFreeCapacityGib(), 0)
		}
	}
	if h.GetAdminState() == tarnv1.HostAdminState_HOST_ADMIN_STATE_DRAINING {
		h.DrainBlockers = reconcile.DrainBlockers(s.Policy, v, heard(), h.GetId())
	}
	return h
}

// GetHost implements tarnv1connect.HostServiceHandler.
func (s *hosts) GetHost(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.Host, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	h, err := hostByRef(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return s.print(v, h, s.heard()), nil
}

// ListHosts implements tarnv1connect.HostServiceHandler. Order: name.
func (s *hosts) ListHosts(ctx context.Context, req *tarnv1.ListHostsRequest) (*tarnv1.ListHostsResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	out, heard := &tarnv1.ListHostsResponse{}, s.heard()
	for h := range v.Hosts() {
		if matches(req.GetAvailabilityZone(), h.GetAvailabilityZone()) && (req.GetState() == 0 || req.GetState() == h.GetState()) {
			out.Hosts = append(out.Hosts, s.print(v, h, heard))
		}
	}
	slices.SortFunc(out.Hosts, func(a, b *tarnv1.Host) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

// EnableHost implements tarnv1connect.HostServiceHandler.
func (s *hosts) EnableHost(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.Host, error) {
	return s.setState(ctx, req.GetId(), tarnv1.HostAdminState_HOST_ADMIN_STATE_ENABLED, "")
}

// DisableHost implements tarnv1connect.HostServiceHandler.
func (s *hosts) DisableHost(ctx context.Context, req *tarnv1.DisableHostRequest) (*tarnv1.Host, error) {
	return s.setState(ctx, req.GetId(), tarnv1.HostAdminState_HOST_ADMIN_STATE_DISABLED, req.GetReason())
}

// DrainHost implements tarnv1connect.HostServiceHandler.
func (s *hosts) DrainHost(ctx context.Context, req *tarnv1.DisableHostRequest) (*tarnv1.Host, error) {
	return s.setState(ctx, req.GetId(), tarnv1.HostAdminState_HOST_ADMIN_STATE_DRAINING, req.GetReason())
}

func (s *hosts) setState(ctx context.Context, ref string, state tarnv1.HostAdminState, reason string) (*tarnv1.Host, error) {
	h, err := record[*tarnv1.Host](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		h, err := hostByRef(v, ref)
		if err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_SetHostAdminState{SetHostAdminState: &raftv1.SetHostAdminState{
			Id: h.GetId(), AdminState: state, Reason: reason,
		}}}, nil
	}))
	if err != nil {
		return nil, err
	}
	s.placer.forget()
	return s.print(s.State.View(), h, s.heard()), nil
}

// RemoveHost implements tarnv1connect.HostServiceHandler.
func (s *hosts) RemoveHost(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.Empty, error) {
	return done(s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		h, err := hostByRef(v, req.GetId())
		if err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_RemoveHost{RemoveHost: &raftv1.RemoveHost{Id: h.GetId()}}}, nil
	}))
}

// ListPools implements tarnv1connect.HostServiceHandler. Order: full name.
func (s *hosts) ListPools(ctx context.Context, req *tarnv1.ListPoolsRequest) (*tarnv1.ListPoolsResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	refusedPools, err := s.unfit(v, callerFrom(ctx), req.GetShareType())
	if err != nil {
		return nil, err
	}
	out, heard := &tarnv1.ListPoolsResponse{}, s.heard()
	for stored := range v.Hosts() {
		h := s.print(v, stored, heard)
		for _, p := range h.GetPools() {
			if !refusedPools[p.GetFullName()] {
				out.Pools = append(out.Pools, &tarnv1.PoolView{
					Pool: p, HostId: h.GetId(), HostName: h.GetName(), AvailabilityZone: h.GetAvailabilityZone(),
					State: h.GetState(), AdminState: h.GetAdminState(),
				})
			}
		}
	}
	slices.SortFunc(out.Pools, func(a, b *tarnv1.PoolView) int {
		return cmp.Compare(a.GetPool().GetFullName(), b.GetPool().GetFullName())
	})
	return out, nil
}

// unfit returns the pools on which no share of the type could be placed now, by
// asking the scheduler about each.
func (s *hosts) unfit(v *raftfsm.View, who caller, ref string) (map[string]bool, error) {
	if ref == "" {
		return nil, nil
	}
	kind, err := who.shareType(v, ref)
	if err != nil {
		return nil, err
	}
	specs, err := schedule.ParseSpecs(kind.GetExtraSpecs())
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for h := range v.Hosts() {
		for _, p := range h.GetPools() {
			name := schedule.PoolName(h.GetName(), h.GetBackend(), p.GetName())
			out[name] = !s.placer.fits(&schedule.Request{
				SizeGiB: max(specs.MinShareSizeGiB, 1), ExtraSpecs: kind.GetExtraSpecs(),
				ReplicationType: specs.ReplicationType, OnlyHost: name,
			})
		}
	}
	return out, nil
}

// fits tells whether a request could be placed, without placing it.
func (p *placer) fits(req *schedule.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refresh(inventoryAge)
	_, err := schedule.Place(req, p.inv)
	_, none := errors.AsType[*schedule.Failure](err)
	return err == nil && !none
}

// ListAvailabilityZones implements tarnv1connect.HostServiceHandler. A zone is
// there as long as a host names it. Order: name.
func (s *hosts) ListAvailabilityZones(ctx context.Context, req *tarnv1.ListAvailabilityZonesRequest) (*tarnv1.ListAvailabilityZonesResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	zones := map[string]*tarnv1.AvailabilityZone{}
	for h := range v.Hosts() {
		z := zones[h.GetAvailabilityZone()]
		if z == nil {
			z = &tarnv1.AvailabilityZone{Name: h.GetAvailabilityZone(), CreatedAt: h.GetCreatedAt()}
			zones[z.GetName()] = z
		}
		z.Hosts++
		if h.GetCreatedAt().AsTime().Before(z.GetCreatedAt().AsTime()) {
			z.CreatedAt = h.GetCreatedAt()
		}
	}
	out := &tarnv1.ListAvailabilityZonesResponse{}
	for _, z := range zones {
		out.AvailabilityZones = append(out.AvailabilityZones, z)
	}
	slices.SortFunc(out.AvailabilityZones, func(a, b *tarnv1.AvailabilityZone) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out, nil
}
