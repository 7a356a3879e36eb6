package api

import (
	"errors"
	"time"

	"tarn/controlplane/consensus"
	tarnv1 "tarn/proto/tarn/v1"
)

// admitMachine refuses an agent on another machine than the host's last one until that
// has not been heard of, and can have had no lease, for D_c (reliability 3.3, rule 7): a
// clone has the same disk, identity and certificate, and each would write its own copy.
// Nobody can tell the clone from the original, nor from the original after a reboot, so
// that the first keeps the identity as long as it lives. taken has to be told how the
// registration went.
//
// An agent on the same machine, in the same of its lives, is the successor of the one
// before: its dead-man takes over. One that does not say where it runs is believed to be.
func (s *agentService) admitMachine(h *tarnv1.Host) (taken func(error), err error) {
	v := s.State.View()
	stored, ok := v.Host(h.GetId())
	if !ok || stored.GetMachine() == "" || h.GetMachine() == "" || stored.GetMachine() == h.GetMachine() {
		return func(err error) {
			if err == nil {
				s.Leases.Registered(h.GetId(), h.GetSessionId(), true)
			}
		}, nil
	}
	now, wait := time.Now(), s.Policy.Wait(v)
	seen, heard := s.Soft.Host(h.GetId())
	heard = heard && seen.SessionID == stored.GetSessionId() && now.Sub(seen.At) < wait
	settle, ok := s.Leases.Pass(h.GetId(), h.GetSessionId(), wait, now)
	if ok && !heard {
		s.Logger.Warn("a host's identity passes to another machine, or this one has been rebooted", "host", h.GetName(), "session", h.GetSessionId())
		return func(err error) { settle(err == nil, !errors.Is(err, consensus.ErrUnknownOutcome)) }, nil
	}
	if ok {
		settle(false, true)
	}
	s.Logger.Warn("two machines claim one host's identity, or one was rebooted a moment ago", "host", h.GetName(), "refused_session", h.GetSessionId())
	return nil, refused("host.machine",
		"another machine is registered as host %s, and may have been at work less than %s ago. After a reboot this passes by itself; a clone needs an identity and a data directory of its own: tarn operator token create agent",
		stored.GetName(), wait)
}
