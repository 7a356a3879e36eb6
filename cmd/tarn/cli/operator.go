package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type operatorCmd struct {
	Raft  raftCmd  `cmd:"" help:"Members of the control plane's Raft cluster."`
	Token tokenCmd `cmd:"" help:"Join tokens."`
	State stateCmd `cmd:"" name:"snapshot" help:"Backups of the control plane's state."`
	Audit auditCmd `cmd:"" help:"The cluster's audit log."`

	Gossip gossipCmd `cmd:"" help:"The key of the gossip ring."`
}

type raftCmd struct {
	List   raftList   `cmd:"" help:"List Raft servers."`
	Add    raftAdd    `cmd:"" help:"Add a server; it becomes a voter when it has caught up."`
	Remove raftRemove `cmd:"" help:"Remove a server."`

	Recover raftRecover `cmd:"" help:"Go on from one stopped survivor when the majority is lost for good."`
}

var raftView = view[*tarnv1.RaftServer]{
	id: (*tarnv1.RaftServer).GetId,
	list: []column[*tarnv1.RaftServer]{
		{"ID", (*tarnv1.RaftServer).GetId},
		{"ADDRESS", (*tarnv1.RaftServer).GetAddress},
		{"ROLE", raftRole},
		{"LAST CONTACT", func(s *tarnv1.RaftServer) string { return durationText(s.GetLastContact()) }},
	},
}

func raftRole(s *tarnv1.RaftServer) string {
	switch {
	case s.GetLeader():
		return "leader"
	case s.GetVoter():
		return "voter"
	}
	return "non-voter"
}

type raftList struct{ watchFlags }

func (c *raftList) Run(ctx context.Context, a *app, api *client.Client) error {
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		answer, err := api.Operator.ListRaftServers(ctx, &tarnv1.ListRaftServersRequest{})
		if err != nil {
			return err
		}
		return raftView.printList(a, w, answer.GetServers())
	})
}

type raftAdd struct {
	ID      string `arg:"" help:"The server's id, from its data directory."`
	Address string `arg:"" help:"host:port."`
}

func (c *raftAdd) Run(ctx context.Context, a *app, api *client.Client) error {
	answer, err := api.Operator.AddRaftServer(ctx, &tarnv1.AddRaftServerRequest{Id: c.ID, Address: c.Address})
	if err != nil {
		return err
	}
	return raftView.printList(a, a.stdout, answer.GetServers())
}

type raftRemove struct {
	ID string `arg:"" help:"The server's id."`
}

func (c *raftRemove) Run(ctx context.Context, a *app, api *client.Client) error {
	answer, err := api.Operator.RemoveRaftServer(ctx, &tarnv1.RemoveRaftServerRequest{Id: c.ID})
	if err != nil {
		return err
	}
	return raftView.printList(a, a.stdout, answer.GetServers())
}

type tokenCmd struct {
	Create tokenCreate `cmd:"" help:"Create a join token; it is shown once."`
}

type tokenCreate struct {
	Role        string        `arg:"" enum:"agent,control,client" help:"agent, control or client."`
	TTL         time.Duration `name:"ttl" help:"How long it can be used." default:"1h"`
	ForProject  string        `help:"Clients: their project."`
	ProjectRole string        `help:"Clients: member or reader." enum:"member,reader," default:""`
}

func (c *tokenCreate) Run(ctx context.Context, a *app, api *client.Client) error {
	answer, err := api.Operator.CreateJoinToken(ctx, &tarnv1.CreateJoinTokenRequest{
		Role: c.Role, Ttl: durationpb.New(c.TTL), ProjectId: c.ForProject, ProjectRole: c.ProjectRole,
	})
	if err != nil {
		return err
	}
	if a.Output != "table" {
		return printMachine(a, a.stdout, answer)
	}
	fmt.Fprintln(a.stdout, answer.GetToken())
	if !a.Quiet {
		fmt.Fprintf(a.stderr, "usable once until %s: tarn join TOKEN --address HOST:PORT --dir DIR\n", stampText(answer.GetExpiresAt()))
	}
	return nil
}

type statusCmd struct {
	watchFlags
	Stale bool `help:"Ask any node, even without a leader."`
}

func (c *statusCmd) Run(ctx context.Context, a *app, api *client.Client) error {
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		s, err := api.Operator.GetStatus(ctx, &tarnv1.GetStatusRequest{Consistency: pageFlags{Stale: c.Stale}.consistency()})
		if err != nil {
			return err
		}
		if a.Output != "table" {
			return printMachine(a, w, s)
		}
		return printStatus(a, w, s)
	})
}

func printStatus(a *app, w io.Writer, s *tarnv1.ClusterStatus) error {
	fmt.Fprintf(w, "cluster %s  leader %s  term %d  index %d\n",
		s.GetClusterId(), label(s.GetLeaderAddress(), "none"), s.GetTerm(), s.GetAppliedIndex())
	fmt.Fprintf(w, "hosts     %d up, %d down, %d disabled\n", s.GetHostsUp(), s.GetHostsDown(), s.GetHostsDisabled())
	fmt.Fprintf(w, "shares    %d, %d available, %d in error\n", s.GetShares(), s.GetSharesAvailable(), s.GetSharesError())
	fmt.Fprintf(w, "replicas  %d: %d active, %d in_sync, %d out_of_sync, %d in error\n", s.GetReplicas(),
		s.GetReplicasActive(), s.GetReplicasInSync(), s.GetReplicasOutOfSync(), s.GetReplicasError())
	fmt.Fprintf(w, "lag       worst %s, %d beyond their RPO; %d promotions running\n",
		worstLag(s), s.GetMissedRpo(), s.GetPromotionsRunning())
	if s.GetLeaseWait() != nil {
		fmt.Fprintf(w, "leases    run out at most %s after their last grant\n", s.GetLeaseWait().AsDuration())
	}
	for _, p := range s.GetProblems() {
		fmt.Fprintf(w, "problem   %s\n", printable(p))
	}
	fmt.Fprintln(w)
	return raftView.printList(a, w, s.GetRaftServers())
}

func worstLag(s *tarnv1.ClusterStatus) string {
	if s.GetWorstLag() == nil {
		return "none"
	}
	return durationText(s.GetWorstLag()) + " of " + s.GetWorstLagReplicaId()
}
