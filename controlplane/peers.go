package controlplane

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
	"tarn/raftfsm"
)

// peers reaches other control-plane nodes before there is a leader to follow. It
// asks exactly the address it is told, once: consensus repeats.
type peers struct {
	transport *http.Transport
	dialer    *identity.Dialer
}

// newPeers calls nobody whom refuse gives an error for; nil refuses nobody.
func newPeers(material *identity.Material, refuse func(id string) error) *peers {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	conf := material.ClientConfig(identity.RoleControl)
	conf.NextProtos = []string{"h2"}
	dialer := identity.NewDialer(conf, refuse)
	return &peers{dialer: dialer, transport: &http.Transport{
		DialTLSContext:    dialer.DialTLS,
		Protocols:         protocols,
		ForceAttemptHTTP2: true,
		IdleConnTimeout:   30 * time.Second,
	}}
}

// Join implements consensus.Peers.
func (p *peers) Join(ctx context.Context, addr string, req consensus.JoinRequest) (consensus.JoinAnswer, error) {
	res, err := p.at(addr).Hello(ctx, &tarnv1.HelloRequest{
		Id: req.Server.ID, Address: req.Server.Addr,
		Known: raftServers(req.Known), Founders: raftServers(req.Founders),
		StillMember: req.StillMember, CommandVersion: raftfsm.CommandVersion,
	})
	if err != nil {
		return consensus.JoinAnswer{}, err
	}
	answer := consensus.JoinAnswer{Status: consensus.JoinNoCluster, LeaderAddr: res.GetLeaderAddress(), Consent: res.GetConsent()}
	switch {
	case res.GetRemoved():
		answer.Status = consensus.JoinRemoved
	case res.GetJoined():
		answer.Status = consensus.JoinDone
	case res.GetHasCluster():
		answer.Status = consensus.JoinElsewhere
	}
	for _, s := range res.GetKnown() {
		answer.Known = append(answer.Known, consensus.Server{ID: s.GetId(), Addr: s.GetAddress(), Voter: s.GetVoter()})
	}
	return answer, nil
}

func (p *peers) at(addr string) tarnv1connect.OperatorServiceClient {
	return tarnv1connect.NewOperatorServiceClient(&http.Client{Transport: p.transport}, "https://"+addr, connect.WithReadMaxBytes(1<<20))
}

// commandVersion asks the node at addr which commands of the log it can apply. self is
// the caller.
func (p *peers) commandVersion(ctx context.Context, addr string, self consensus.Server) (uint32, error) {
	res, err := p.at(addr).Hello(ctx, &tarnv1.HelloRequest{
		Id: self.ID, Address: self.Addr, StillMember: true, CommandVersion: raftfsm.CommandVersion,
	})
	if err != nil {
		return 0, err
	}
	return max(1, res.GetCommandVersion()), nil
}

func raftServers(in []consensus.Server) []*tarnv1.RaftServer {
	var out []*tarnv1.RaftServer
	for _, s := range in {
		out = append(out, &tarnv1.RaftServer{Id: s.ID, Address: s.Addr, Voter: s.Voter})
	}
	return out
}

func (p *peers) close() { p.transport.CloseIdleConnections() }
