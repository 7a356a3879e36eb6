package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/observe"
	"tarn/controlplane/schedule"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// defaultInquiry is how long hosts are waited for: a report interval and a half, and
// less than a client waits for an answer.
const (
	defaultInquiry  = 8 * time.Second
	longestInquiry  = 20 * time.Second
	shortestInquiry = time.Second
)

// inquire asks one host and waits for at most wait. The error is a sentence for whom
// the answer was meant.
func (c *core) inquire(ctx context.Context, v *raftfsm.View, hostID string, question *tarnv1.Inquiry, wait *durationpb.Duration) (*tarnv1.InquiryAnswer, error) {
	h, ok := v.Host(hostID)
	if !ok {
		return nil, errors.New("the host is not known any more")
	}
	if h.GetState() == tarnv1.HostState_HOST_STATE_DOWN {
		return nil, errors.New("the host is down, so that nobody can say")
	}
	limit := wait.AsDuration()
	if limit == 0 {
		limit = defaultInquiry
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := c.Soft.Ask(ctx, hostID, question)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("the host did not answer within %s", limit)
	case errors.Is(err, observe.ErrLedAnew), errors.Is(err, observe.ErrTooManyInquiries):
		return nil, err
	case err != nil:
		return nil, errors.New("the question was given up")
	case answer.GetError() != "":
		return nil, errors.New(answer.GetError())
	}
	return answer, nil
}

// GetShareRetention implements tarnv1connect.ShareServiceHandler.
func (s *shares) GetShareRetention(ctx context.Context, req *tarnv1.GetShareRetentionRequest) (*tarnv1.ShareRetention, error) {
	v, err := s.read(ctx, tarnv1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return nil, err
	}
	who := callerFrom(ctx)
	share, err := who.share(v, req.GetId())
	if err != nil {
		return nil, err
	}
	keep := schedule.Keep(share.GetExtraSpecs())
	if req.Keep != nil {
		if keep, err = keepOf(req.GetKeep()); err != nil {
			return nil, err
		}
	}
	replicas := v.ReplicasOfShare(share.GetId())
	out := &tarnv1.ShareRetention{
		ShareId: share.GetId(), Keep: schedule.KeepText(share.GetExtraSpecs()), Replicas: make([]*tarnv1.ReplicaRetention, len(replicas)),
	}
	var group errgroup.Group
	for i, r := range replicas {
		group.Go(func() error {
			out.Replicas[i] = s.retention(ctx, v, r, keep, req.GetMaxWait())
			if !who.isOperator() {
				hideRetention(out.Replicas[i])
			}
			return nil
		})
	}
	return out, group.Wait()
}

// retention asks the host of one replica.
func (s *shares) retention(ctx context.Context, v *raftfsm.View, r *tarnv1.Replica, keep *tarnv1.KeepPolicy, wait *durationpb.Duration) *tarnv1.ReplicaRetention {
	out := &tarnv1.ReplicaRetention{
		ReplicaId: r.GetId(), Host: r.GetHost(), AvailabilityZone: r.GetAvailabilityZone(), ReplicaState: r.GetReplicaState(),
	}
	answer, err := s.inquire(ctx, v, r.GetHostId(), &tarnv1.Inquiry{Question: &tarnv1.Inquiry_Retention{
		Retention: &tarnv1.RetentionQuestion{ReplicaId: r.GetId(), Keep: keep},
	}}, wait)
	if err != nil {
		out.Error = err.Error()
		return out
	}
	// What came with a report is not this answer's to change.
	out.Preview = proto.CloneOf(answer.GetRetention())
	if out.Preview == nil {
		out.Error = "the host does not know this question; upgrade its agent"
	}
	return out
}

// hideRetention blanks what names machines and datasets.
func hideRetention(r *tarnv1.ReplicaRetention) {
	r.Host = ""
	if r.GetError() != "" && r.GetPreview() == nil {
		r.Error = "the replica's host gave no answer; ask the operator"
	}
	for _, s := range r.GetPreview().GetSnapshots() {
		for _, c := range s.GetCauses() {
			if c.GetReason() != tarnv1.RetentionReason_RETENTION_REASON_POLICY {
				c.Detail = ""
			}
		}
	}
}

// keepOf reads a policy that a caller wants to try; "" is none.
func keepOf(text string) (*tarnv1.KeepPolicy, error) {
	if text == "" {
		return nil, nil
	}
	p, err := schedule.ParseKeep(text)
	if err != nil {
		return nil, invalid("keep", "%s", err)
	}
	return p.Message(), nil
}

// addInquiryRules adds requests that hosts are asked for.
func addInquiryRules(r rules) {
	on(r, func(c *checker, m *tarnv1.GetShareRetentionRequest) {
		c.id("id", m.GetId())
		if _, err := keepOf(m.GetKeep()); err != nil {
			c.fail("keep", "%s", ruleOf(err))
		}
		c.patience(m.GetMaxWait())
	})
	on(r, func(c *checker, m *tarnv1.ListDivergentCopiesRequest) {
		c.optionalID("share_id", m.GetShareId())
		c.optionalID("replica_id", m.GetReplicaId())
	})
	on(r, func(c *checker, m *tarnv1.GetDivergentCopyRequest) {
		c.copy(m.GetGuid(), m.GetHostId())
		c.patience(m.GetMaxWait())
	})
	on(r, func(c *checker, m *tarnv1.ListUnknownReplicasRequest) { c.optionalID("share_id", m.GetShareId()) })
	on(r, func(c *checker, m *tarnv1.UnknownReplicaRequest) { c.id("replica_id", m.GetReplicaId()) })
	on(r, func(c *checker, m *tarnv1.PurgeDivergentCopyRequest) {
		c.copy(m.GetGuid(), m.GetHostId())
		c.required("reason", m.GetReason())
	})
}

// copy checks what names a divergent copy.
func (c *checker) copy(guid uint64, hostID string) {
	if guid == 0 {
		c.fail("guid", "is required: the number that tarn replica divergent list shows")
	}
	c.optionalID("host_id", hostID)
}

// patience checks how long a caller waits for hosts.
func (c *checker) patience(wait *durationpb.Duration) {
	if wait.AsDuration() != 0 {
		c.span("max_wait", wait, shortestInquiry, longestInquiry)
	}
}

// ruleOf is the rule that a single violation names.
func ruleOf(err error) string {
	if bad, ok := errors.AsType[*invalidError](err); ok {
		return bad.violations[0].GetRule()
	}
	return err.Error()
}
