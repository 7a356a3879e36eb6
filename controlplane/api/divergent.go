package api

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// ListDivergentCopies implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) ListDivergentCopies(ctx context.Context, req *tarnv1.ListDivergentCopiesRequest) (*tarnv1.ListDivergentCopiesResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	if err := mayName(v, who, req); err != nil {
		return nil, err
	}
	wanted := func(c *tarnv1.DivergentCopy) bool {
		return matches(req.GetShareId(), c.GetShareId()) && matches(req.GetReplicaId(), c.GetReplicaId())
	}
	named := req.GetShareId() != "" || req.GetReplicaId() != ""
	out := &tarnv1.ListDivergentCopiesResponse{}
	for c := range s.copies(v, who, req.GetAllProjects() || named && who.isOperator()) {
		if wanted(c) {
			out.DivergentCopies = append(out.DivergentCopies, printCopy(who, c))
		}
	}
	slices.SortFunc(out.DivergentCopies, func(a, b *tarnv1.DivergentCopy) int {
		return cmp.Or(a.GetCreatedAt().AsTime().Compare(b.GetCreatedAt().AsTime()), cmp.Compare(a.GetGuid(), b.GetGuid()))
	})
	if who.isOperator() {
		out.SilentHosts = s.untold(v)
	}
	return out, nil
}

// mayName refuses what does not exist for the caller. What is gone may have left
// copies behind, which operators see.
func mayName(v *raftfsm.View, who caller, req *tarnv1.ListDivergentCopiesRequest) error {
	if who.isOperator() {
		return nil
	}
	if id := req.GetShareId(); id != "" {
		if _, err := who.share(v, id); err != nil {
			return err
		}
	}
	if id := req.GetReplicaId(); id != "" {
		if _, err := who.replica(v, id); err != nil {
			return err
		}
	}
	return nil
}

// copies walks the divergent copies that a caller may see: of the replicas of the
// project or of all, and with all those that hosts have of replicas that are gone.
func (s *replicas) copies(v *raftfsm.View, who caller, all bool) iter.Seq[*tarnv1.DivergentCopy] {
	return func(yield func(*tarnv1.DivergentCopy) bool) {
		for r := range replicasIn(v, who, &tarnv1.ListReplicasRequest{AllProjects: all}) {
			if !who.mayWrite(r.GetProjectId()) {
				continue
			}
			for _, c := range s.copiesOf(v, r) {
				if !yield(c) {
					return
				}
			}
		}
		if !all || !who.isOperator() {
			return
		}
		for h := range v.Hosts() {
			for _, c := range s.orphanedOn(v, h) {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// copiesOf are a replica's copies, with the sizes of its host's last report.
func (s *replicas) copiesOf(v *raftfsm.View, r *tarnv1.Replica) []*tarnv1.DivergentCopy {
	if len(r.GetDivergentCopies()) == 0 {
		return nil
	}
	used := map[uint64]int64{}
	for _, c := range s.Soft.Copies(r.GetId()) {
		used[c.GetGuid()] = c.GetUsedBytes()
	}
	h, _ := v.Host(r.GetHostId())
	var list []*tarnv1.DivergentCopy
	for _, stored := range r.GetDivergentCopies() {
		c := proto.CloneOf(stored)
		c.ShareId, c.ReplicaId, c.HostId, c.Host = r.GetShareId(), r.GetId(), r.GetHostId(), r.GetHost()
		if n, ok := used[c.GetGuid()]; ok {
			c.UsedBytes = n
		}
		list = append(list, s.ordered(h, c))
	}
	return list
}

// orphanedOn are copies on a host whose replicas are not there any more.
func (s *replicas) orphanedOn(v *raftfsm.View, h *tarnv1.Host) []*tarnv1.DivergentCopy {
	seen, ok := s.Soft.Host(h.GetId())
	if !ok {
		return nil
	}
	var list []*tarnv1.DivergentCopy
	for _, told := range seen.Orphaned {
		if r, ok := v.Replica(told.GetReplicaId()); ok && r.GetHostId() == h.GetId() {
			continue // its assignment is on its way
		}
		c := proto.CloneOf(told)
		c.HostId, c.Host, c.Orphaned = h.GetId(), h.GetName()+"@"+h.GetBackend()+"#"+poolOf(c.GetDataset()), true
		list = append(list, s.ordered(h, c))
	}
	return list
}

// ordered adds the order to purge a copy, if one stands, and how that goes.
func (s *replicas) ordered(h *tarnv1.Host, c *tarnv1.DivergentCopy) *tarnv1.DivergentCopy {
	for _, o := range h.GetPurges() {
		if o.GetGuid() != c.GetGuid() {
			continue
		}
		c.Purge = proto.CloneOf(o)
		seen, ok := s.Soft.Host(h.GetId())
		for i := 0; ok && i < len(seen.Purges); i++ {
			if seen.Purges[i].GetGuid() == o.GetGuid() {
				c.Purge.Error = seen.Purges[i].GetError()
			}
		}
	}
	return c
}

// untold are the hosts that have not said yet what they have of replicas that are gone.
func (s *replicas) untold(v *raftfsm.View) []string {
	var names []string
	for h := range v.Hosts() {
		if seen, ok := s.Soft.Host(h.GetId()); !ok || !seen.OrphansTold {
			names = append(names, h.GetName())
		}
	}
	slices.Sort(names)
	return names
}

func poolOf(dataset string) string {
	for i := range len(dataset) {
		if dataset[i] == '/' {
			return dataset[:i]
		}
	}
	return dataset
}

// printCopy hides from users what names machines and datasets.
func printCopy(who caller, c *tarnv1.DivergentCopy) *tarnv1.DivergentCopy {
	if who.isOperator() {
		return c
	}
	c.Dataset, c.HostId, c.Host = "", "", ""
	if c.Purge != nil {
		c.Purge = &tarnv1.PurgeOrder{Guid: c.GetGuid(), RequestedAt: c.Purge.GetRequestedAt(), Reason: c.Purge.GetReason()}
	}
	return c
}

// copyOf finds the one copy that a request names.
func (s *replicas) copyOf(v *raftfsm.View, who caller, guid uint64, hostID string) (*tarnv1.DivergentCopy, error) {
	var found *tarnv1.DivergentCopy
	for c := range s.copies(v, who, who.isOperator()) {
		if c.GetGuid() != guid || !matches(hostID, c.GetHostId()) {
			continue
		}
		if found != nil && found.GetHostId() != c.GetHostId() {
			return nil, refused("host_id", "hosts %s and %s both have a copy of that GUID; say which", found.GetHostId(), c.GetHostId())
		}
		found = c
	}
	if found != nil {
		return found, nil
	}
	err := &raftfsm.Error{Code: raftfsm.NotFound, Field: "guid", Message: "no divergent copy of that GUID is known"}
	if who.isOperator() && len(s.untold(v)) > 0 {
		err.Message += "; not all hosts have told yet what they have of replicas that are gone"
	}
	return nil, err
}

// GetDivergentCopy implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) GetDivergentCopy(ctx context.Context, req *tarnv1.GetDivergentCopyRequest) (*tarnv1.DivergentDetail, error) {
	v, err := s.read(ctx, tarnv1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	known, err := s.copyOf(v, who, req.GetGuid(), req.GetHostId())
	if err != nil {
		return nil, err
	}
	answer, err := s.inquire(ctx, v, known.GetHostId(), &tarnv1.Inquiry{Question: &tarnv1.Inquiry_Divergent{
		Divergent: &tarnv1.DivergentQuestion{Guid: req.GetGuid()},
	}}, req.GetMaxWait())
	if err != nil && !who.isOperator() {
		err = errors.New("the copy's host gave no answer; ask the operator")
	}
	if err == nil && answer.GetDivergent() == nil {
		err = errors.New("the host does not know this question; upgrade its agent")
	}
	if err != nil {
		return nil, connect.NewError(connect.CodeDeadlineExceeded, err)
	}
	out := proto.CloneOf(answer.GetDivergent())
	known.UsedBytes, known.BaseGuid = out.GetCopy().GetUsedBytes(), out.GetCopy().GetBaseGuid()
	out.Copy = printCopy(who, known)
	if !who.isOperator() {
		out.Origin, out.Reading = "", nil
		for _, snap := range out.GetSnapshots() {
			snap.Holds, snap.Clones = nil, nil
		}
	}
	return out, nil
}

// PurgeDivergentCopy implements tarnv1connect.ReplicaServiceHandler.
func (s *replicas) PurgeDivergentCopy(ctx context.Context, req *tarnv1.PurgeDivergentCopyRequest) (*tarnv1.DivergentCopy, error) {
	who := callerFrom(ctx)
	var c *tarnv1.DivergentCopy
	order, err := record[*tarnv1.PurgeOrder](s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		var err error
		if c, err = s.copyOf(v, who, req.GetGuid(), req.GetHostId()); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_PurgeDivergentCopy{PurgeDivergentCopy: &raftv1.PurgeDivergentCopy{
			Order: &tarnv1.PurgeOrder{
				HostId: c.GetHostId(), Guid: c.GetGuid(), Dataset: c.GetDataset(), ShareId: c.GetShareId(),
				ReplicaId: c.GetReplicaId(), Reason: req.GetReason(),
			},
		}}}, nil
	}))
	if err != nil {
		return nil, err
	}
	if c == nil { // Asked again, and it may be gone by now.
		c = &tarnv1.DivergentCopy{HostId: order.GetHostId(), Guid: order.GetGuid(), Dataset: order.GetDataset(), ShareId: order.GetShareId(), ReplicaId: order.GetReplicaId()}
	}
	c.Purge = order
	s.Logger.Warn("a divergent copy may be destroyed", "by", who.actor(), "host", c.GetHost(), "dataset", c.GetDataset(), "guid", c.GetGuid(),
		"reason", req.GetReason())
	return c, nil
}
