package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
)

// Timeouts are Raft's clocks. Zero fields take the defaults.
//
// Heartbeats wait for the follower's log to be synced (reliability.md 2.1), so
// these must be generous against the slowest fsync of the Raft volume.
type Timeouts struct {
	// Heartbeat is how long a follower waits for its leader before it asks for
	// votes. Default 3 s; a cluster on one machine does well with 1 s.
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes. Default: Heartbeat; never less.
	Election time.Duration
	// Lease is how long a leader stays one without contact to a majority.
	// Default: Heartbeat; never more. No read or grant depends on it.
	Lease time.Duration
	// Store is how long a write to the log may take before the process gives up
	// its place (raft#503). Default 10 s.
	Store time.Duration
	// Promote is how long a joined server must have been caught up without a
	// break before it gets a vote. Default 10 s.
	Promote time.Duration
	// Join is the mean pause between two rounds of asking other nodes to let
	// this one in. Default 500 ms.
	Join time.Duration
}

func (t Timeouts) withDefaults() Timeouts {
	fill := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	fill(&t.Heartbeat, 3*time.Second)
	fill(&t.Election, t.Heartbeat)
	fill(&t.Lease, t.Heartbeat)
	fill(&t.Store, 10*time.Second)
	fill(&t.Promote, 10*time.Second)
	fill(&t.Join, 500*time.Millisecond)
	return t
}

// Config is all that a node needs. ID, Dir, Stream, FSM and Logger are required.
type Config struct {
	// ID is this server's identity for ever: what ServerID(Dir) returned, and
	// the UUID in the node's certificate.
	ID string
	// Dir holds the log and the snapshots. One process at a time.
	Dir string
	// Stream carries Raft's connections. Its Addr is the address other nodes
	// use. Run closes it.
	Stream raft.StreamLayer
	// FSM is applied to from one goroutine. raft.BatchingFSM is used if implemented.
	FSM raft.FSM
	// VerifySnapshot reads what the state machine persisted, at start and once an hour.
	// Its error wraps ErrTorn for damage, which an older snapshot may make good; any
	// other stops the node. Nil: raft's own checksum is all.
	VerifySnapshot func(io.Reader) error
	// Lead is the leader's work. It is called after each election won, once
	// everything committed before is applied, with a context that ends when
	// leadership of term does. The next term is not served before it returned,
	// so it must obey its context. After an error it is called again a second
	// later if the term still lasts; nil means its work for the term is done.
	Lead func(ctx context.Context, term uint64) error
	// Peers reaches other nodes' HandleJoin. Required with Join or BootstrapExpect above 1.
	Peers Peers
	// Join holds addresses of other control-plane nodes; one is enough.
	Join []string
	// BootstrapExpect is the number of empty servers that form a new cluster
	// together: 0 never, 1 this one alone, else 2 to 9. A node that has a log, or
	// finds a cluster, ignores it.
	BootstrapExpect int
	Timeouts        Timeouts
	// TrailingLogs is how many entries stay in the log after a snapshot, so that
	// a follower that was away catches up without one. Default 50,000.
	TrailingLogs uint64
	// SnapshotThreshold is how many new entries make a snapshot worth while. Default 16,384.
	SnapshotThreshold uint64
	Logger            *slog.Logger
}

const maxExpect = 9

func (c Config) check() error {
	switch {
	case c.ID == "" || c.Dir == "":
		return errors.New("consensus config: ID and Dir are required")
	case c.Stream == nil || c.FSM == nil || c.Logger == nil:
		return errors.New("consensus config: Stream, FSM and Logger are required")
	case c.BootstrapExpect < 0 || c.BootstrapExpect > maxExpect:
		return fmt.Errorf("consensus config: bootstrap expect is %d, want 0 to %d", c.BootstrapExpect, maxExpect)
	case c.BootstrapExpect == 1 && len(c.Join) > 0:
		return errors.New("consensus config: bootstrap expect 1 makes a cluster of one and cannot join another")
	case c.Peers == nil && (len(c.Join) > 0 || c.BootstrapExpect > 1):
		return errors.New("consensus config: Peers is required to join")
	}
	return raft.ValidateConfig(c.raftConfig())
}

func (c Config) withDefaults() Config {
	c.Timeouts = c.Timeouts.withDefaults()
	if c.TrailingLogs == 0 {
		c.TrailingLogs = 50_000
	}
	if c.SnapshotThreshold == 0 {
		c.SnapshotThreshold = 16_384
	}
	return c
}

func (c Config) raftConfig() *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.ID)
	rc.HeartbeatTimeout = c.Timeouts.Heartbeat
	rc.ElectionTimeout = c.Timeouts.Election
	rc.LeaderLeaseTimeout = c.Timeouts.Lease
	rc.TrailingLogs = c.TrailingLogs
	rc.SnapshotThreshold = c.SnapshotThreshold
	// One fsync then covers all proposals that arrived during the one before.
	rc.MaxAppendEntries = 512
	rc.BatchApplyCh = true
	// runMembership ends a removed server. Raft's own way does not let us wait
	// for its goroutines before the store is closed.
	rc.ShutdownOnRemove = false
	rc.NoLegacyTelemetry = true
	rc.Logger = raftLogger(c.Logger)
	return rc
}
