package api

import (
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/observe"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// answerTo begins the answer to a renewal, with a token or with the word that another life
// of the agent goes on. v was read in a leadership that was proved after the request came.
func (s *agentService) answerTo(v *raftfsm.View, req *tarnv1.RenewLeaseRequest) (*tarnv1.RenewLeaseResponse, error) {
	host, session := req.GetHostId(), req.GetSessionId()
	if err := currentSession(v, host, session); err != nil {
		return nil, err
	}
	if !s.Policy.MayGrant(v) {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the log does not say yet how long to wait for leases of this leader, ask again"))
	}
	_, _, term := s.Cluster.Leader()
	verdict, token := s.lives.Judge(term, host, session, req.GetEcho(), func() bool {
		return currentSession(s.State.View(), host, session) == nil
	})
	switch verdict {
	case observe.Another:
		// It may be a request that nobody waits for any more: only who hears the answer
		// can make an alarm of it.
		s.Logger.Debug("renewal of another life", "host", host, "session", session)
	case observe.Outdated:
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("leadership or session changed meanwhile, ask again"))
	}
	return &tarnv1.RenewLeaseResponse{
		Nonce: req.GetNonce(), Duration: durationpb.New(s.LeaseDuration), Token: token, AnotherLife: verdict == observe.Another,
	}, nil
}

// anotherLife takes the word of a host's life that had to stop. It is no sign of life of
// the host, and counts for nothing but to be shown.
func (s *agentService) anotherLife(hostID string) (*tarnv1.ReportResponse, error) {
	h, ok := s.State.View().Host(hostID)
	if !ok {
		return nil, notFound("host", hostID)
	}
	s.Count("report", "another_life", 1)
	if s.Soft.AnotherLife(hostID, time.Now()) {
		s.Logger.Error("a copy of a host runs beside it, and has stopped serving: switch one off, or reboot the copy", "host", h.GetName(), "id", hostID)
	}
	return &tarnv1.ReportResponse{}, nil
}
