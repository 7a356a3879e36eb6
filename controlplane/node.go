package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"tarn/agent/gossip"
	"tarn/controlplane/api"
	"tarn/controlplane/audit"
	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
	"tarn/controlplane/observe"
	"tarn/controlplane/reconcile"
	"tarn/metrics"
	"tarn/raftfsm"
)

// Node is one control-plane node.
type Node struct {
	cfg       Config
	id        string
	log       *slog.Logger
	material  *identity.Material
	authority *identity.CA
	fsm       *raftfsm.FSM
	soft      *observe.State
	leases    *observe.Leases
	stream    *consensus.StreamLayer
	consensus *consensus.Node
	peers     *peers
	commands  *commandLog
	gate      *gate
	loop      *reconcile.Loop
	handler   http.Handler
	registry  *prometheus.Registry
	counters  *metrics.ControlPlane
	ring      *gossip.Ring
	keeper    *ringKeeper
	audit     *audit.File
	policies  *policyFile
}

// NodeID returns the identity of the node with this data directory, minting it if
// the directory is new. The node's certificate must carry it: whoever makes the
// certificate asks here first.
func NodeID(dataDir string) (string, error) { return consensus.ServerID(RaftDir(dataDir)) }

// New checks the configuration, the certificate and the data directory, and
// returns a node that does nothing until Run.
func New(cfg Config) (*Node, error) {
	cfg = cfg.Defaults()
	if err := errors.Join(cfg.Validate()...); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	n := &Node{cfg: cfg}
	for _, step := range []func() error{n.openIdentity, n.openState, n.openConsensus, n.openLeader, n.openKeys, n.openGossip, n.openAPI} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// ID returns the node's identity.
func (n *Node) ID() string { return n.id }

// Consensus returns the node's part in the replicated log, for status.
func (n *Node) Consensus() *consensus.Node { return n.consensus }

// Registry is where the node's metrics are; main installs the libraries' sink on it.
func (n *Node) Registry() *prometheus.Registry { return n.registry }

// View returns the node's copy of the replicated state.
func (n *Node) View() *raftfsm.View { return n.fsm.View() }

func (n *Node) openIdentity() error {
	id, err := NodeID(n.cfg.DataDir)
	if err != nil {
		return err
	}
	n.material, err = identity.LoadMaterial(n.cfg.PKIDir)
	if err != nil {
		return err
	}
	mine := n.material.Identity()
	if mine.Role != identity.RoleControl || mine.ID != id {
		return fmt.Errorf("certificate in %s is of %s %s, this data directory is of control node %s: get it a certificate of its own",
			n.cfg.PKIDir, mine.Role, mine.ID, id)
	}
	n.id = id
	logger := n.cfg.Logger
	if logger == nil {
		logger = n.cfg.Log.New(os.Stderr)
	}
	n.log = logger.With("node", or(n.cfg.Name, id))
	n.authority, err = identity.LoadCA(n.cfg.PKIDir)
	if errors.Is(err, fs.ErrNotExist) {
		n.authority, err = nil, nil
	}
	return err
}

func (n *Node) openState() error {
	// The log cannot deliver anything before Run, when n.consensus is set.
	n.registry = metrics.NewRegistry(metrics.Build{Version: n.cfg.Version, Revision: n.cfg.Revision})
	n.counters = metrics.NewControlPlane(n.registry)
	n.fsm = raftfsm.New(raftfsm.Config{
		OnHalt:      func(err error) { n.consensus.Fail(err) },
		OnOtherTerm: n.counters.OtherTerm.WithLabelValues().Inc,
	})
	n.gate = newGate(n.fsm)
	n.leases = observe.NewLeases()
	var err error
	n.soft, err = observe.New(observe.Config{TTL: n.cfg.Hosts.TTL, ReportInterval: n.cfg.Hosts.ReportInterval, Asleep: asleep, Wakened: func(lost time.Duration) {
		n.log.Warn("this machine was frozen, or its clock was set: what hosts said before is forgotten", "time", lost)
	}})
	return err
}

func (n *Node) openConsensus() error {
	var err error
	n.stream, err = consensus.NewStreamLayer(n.cfg.Advertise, n.material, n.log)
	if err != nil {
		return err
	}
	n.peers = newPeers(n.material, n.refuseRevoked)
	n.consensus, err = consensus.Open(consensus.Config{
		ID:                n.id,
		Dir:               RaftDir(n.cfg.DataDir),
		Stream:            n.stream,
		FSM:               n.fsm,
		VerifySnapshot:    verifySnapshot,
		Lead:              n.lead,
		Peers:             n.peers,
		Join:              n.cfg.Join,
		BootstrapExpect:   n.cfg.BootstrapExpect,
		Timeouts:          n.cfg.Raft.timeouts(),
		TrailingLogs:      n.cfg.Raft.TrailingLogs,
		SnapshotThreshold: n.cfg.Raft.SnapshotThreshold,
		Logger:            n.log,
	})
	if err != nil {
		return err
	}
	n.gate.servers, n.gate.self = n.consensus.Servers, n.id
	n.gate.ask = func(ctx context.Context, addr string) (uint32, error) {
		return n.peers.commandVersion(ctx, addr, consensus.Server{ID: n.id, Addr: n.cfg.Advertise})
	}
	n.commands = &commandLog{node: n.consensus, gate: n.gate, counted: func(verb, result string) {
		n.counters.Commands.WithLabelValues(verb, result).Inc()
	}}
	n.registerMetrics()
	return nil
}

// verifySnapshot tells damage, which an older snapshot may make good, from what a newer
// version wrote.
func verifySnapshot(r io.Reader) error {
	err := raftfsm.VerifySnapshot(r)
	if errors.Is(err, raftfsm.ErrCorrupt) {
		return fmt.Errorf("%w: %w", consensus.ErrTorn, err)
	}
	return err
}

func (r RaftConfig) timeouts() consensus.Timeouts {
	return consensus.Timeouts{
		Heartbeat: r.HeartbeatTimeout, Election: r.ElectionTimeout, Lease: r.LeaderLeaseTimeout,
		Store: r.StoreTimeout, Promote: r.PromoteAfter,
	}
}

func (n *Node) openAPI() error {
	var err error
	if n.audit, err = audit.Open(AuditDir(n.cfg.DataDir), n.id, n.log); err != nil {
		return err
	}
	n.stream.Refused, n.stream.Revoked = n.refusedRaft, n.revoked
	if n.policies, err = loadPolicy(n.cfg.PolicyFile); err != nil {
		return err
	}
	caHash, err := identity.CAHash(n.material.CAPEM())
	if err != nil {
		return err
	}
	n.handler, err = api.New(api.Config{
		NodeID:        n.id,
		ClusterID:     n.material.Identity().Cluster,
		Version:       n.cfg.Version,
		State:         n.fsm,
		Log:           n.commands,
		Cluster:       n.consensus,
		Membership:    n.consensus,
		Soft:          n.soft,
		Leases:        n.leases,
		Authority:     api.Authority{CA: n.authority, CAHash: caHash, Addresses: n.addresses},
		Gossip:        n.keeper,
		LeaseDuration: n.cfg.Lease.Duration,
		Behind:        n.gate.Behind,
		Policy:        n.policy(),
		Policies:      n.policies,
		Limit:         api.RateLimit{PerSecond: n.cfg.API.RequestsPerSecond, Burst: n.cfg.API.Burst},
		Observe:       n.observeRPC,
		Audit:         n.audit,
		Count:         n.count,
		Placed:        func(took time.Duration) { n.counters.PlacementDuration.WithLabelValues().Observe(took.Seconds()) },
		Logger:        n.log,
		Reflection:    n.cfg.Reflection,
	})
	return err
}

// addresses of the control-plane nodes that this one knows of.
func (n *Node) addresses() []string {
	servers, err := n.consensus.Servers()
	if err != nil || len(servers) == 0 {
		return []string{n.cfg.Advertise}
	}
	var out []string
	for _, s := range servers {
		out = append(out, s.Addr)
	}
	return out
}

// Run serves until ctx ends, then stops in order and returns nil. An error means
// that the node must not go on: its log, its state machine or its port failed.
func (n *Node) Run(ctx context.Context) error {
	socket, err := n.socket()
	if err != nil {
		return err
	}
	renewer, err := n.newRenewer()
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	l := newListener(socket, n.material, n.stream, n.handler, n.listenerLog(), n.cfg.Connections)
	defer n.peers.close()
	n.log.Info("control-plane node starts", "id", n.id, "listen", socket.Addr().String(), "advertise", n.cfg.Advertise)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(l.serve)
	group.Go(func() error {
		// Raft first, the port after it: Raft's connections hold the port open.
		defer l.shutdown()
		return n.consensus.Run(ctx)
	})
	group.Go(func() error { return n.admin().Run(ctx) })
	group.Go(func() error { return renewer.Run(ctx) })
	group.Go(func() error { return n.audit.Follow(ctx, n.fsm, n.log) })
	group.Go(func() error { return n.followPolicy(ctx) })
	group.Go(func() error { return n.followRevocations(ctx, l) })
	if n.ring != nil {
		group.Go(func() error { return n.ring.Run(ctx) })
	}
	if err := errors.Join(group.Wait(), n.audit.Close()); err != nil {
		return fmt.Errorf("control-plane node %s: %w", n.id, err)
	}
	return nil
}

func (n *Node) socket() (net.Listener, error) {
	if n.cfg.Socket != nil {
		return n.cfg.Socket, nil
	}
	socket, err := net.Listen("tcp", n.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("open port: %w", err)
	}
	return socket, nil
}
