package api

import (
	"context"
	"iter"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// shareSorts are the orders of ListShares; "" is created_at.
func shareSorts() []string { return []string{"", "created_at", "name", "size_gib"} }

// ListShares implements tarnv1connect.ShareServiceHandler.
func (s *shares) ListShares(ctx context.Context, req *tarnv1.ListSharesRequest) (*tarnv1.ListSharesResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	sort, descending := strings.CutPrefix(req.GetSort(), "-")
	found, next, total := page(sharesIn(v, who, req), shareFilter(v, req), shareOrder(sort),
		window{limit: req.GetLimit(), token: req.GetPageToken(), descending: descending})
	out := &tarnv1.ListSharesResponse{NextPageToken: next, Total: total}
	for _, share := range found {
		out.Shares = append(out.Shares, printShare(v, who, share))
	}
	return out, nil
}

func sharesIn(v *raftfsm.View, who caller, req *tarnv1.ListSharesRequest) iter.Seq[*tarnv1.Share] {
	if req.GetAllProjects() {
		return v.Shares()
	}
	return v.SharesOfProject(who.project)
}

func shareOrder(sort string) func(*tarnv1.Share) cursor {
	return func(s *tarnv1.Share) cursor {
		switch sort {
		case "name":
			return cursor{text: s.GetName(), id: s.GetId()}
		case "size_gib":
			return cursor{number: s.GetSizeGib(), id: s.GetId()}
		}
		return byTime(s.GetCreatedAt(), s.GetId())
	}
}

// shareFilter asks the cheap questions first; projecting a share costs a clone.
func shareFilter(v *raftfsm.View, req *tarnv1.ListSharesRequest) func(*tarnv1.Share) bool {
	projected := req.GetStatus() != 0 || req.GetAvailabilityZone() != "" || req.GetHost() != ""
	return func(s *tarnv1.Share) bool {
		if !matches(req.GetName(), s.GetName()) || !strings.Contains(s.GetName(), req.GetNameContains()) ||
			!matches(req.GetShareTypeId(), s.GetShareTypeId()) || !matches(req.GetSnapshotId(), s.GetSnapshotId()) ||
			!containsPairs(s.GetMetadata(), req.GetMetadata()) {
			return false
		}
		if !projected {
			return true
		}
		p := v.ProjectShare(s)
		return (req.GetStatus() == 0 || req.GetStatus() == p.GetStatus()) &&
			matches(req.GetAvailabilityZone(), p.GetAvailabilityZone()) && matches(req.GetHost(), p.GetHost())
	}
}

// matches tells whether a filter that may be empty lets a value through.
func matches(filter, value string) bool { return filter == "" || filter == value }

func containsPairs(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}
