package controlplane

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"tarn/controlplane/identity"
)

// Config of a control-plane node, as in controlplane.toml. Durations are Go's
// ("1m30s"). Zero values take the defaults named here; see Defaults.
type Config struct {
	// Name is for people, in logs. Default: the node's id.
	Name string `toml:"name"`
	// DataDir holds the log, snapshots and the node's identity. Required.
	DataDir string `toml:"data_dir"`
	// Listen is host:port of the one TLS port: API and Raft. Default 0.0.0.0:7400.
	Listen string `toml:"listen"`
	// Advertise is host:port under which others reach Listen. Default: Listen,
	// which then must not be a wildcard.
	Advertise string `toml:"advertise"`
	// Join names other control-plane nodes, host:port; one is enough.
	Join []string `toml:"join"`
	// BootstrapExpect is how many empty nodes found a cluster together: 0 never,
	// 1 this one alone, up to 9.
	BootstrapExpect int `toml:"bootstrap_expect"`
	// PKIDir holds ca.pem, node.pem, node.key and, to let others join, ca.key.
	// Default: pki below DataDir.
	PKIDir string `toml:"pki_dir"`
	// PolicyFile is a policy.yaml: what people may do, where it differs from the built-in
	// rules. It is taken up again when it changes.
	PolicyFile string `toml:"policy_file"`
	// Reflection serves the gRPC reflection service to operators.
	Reflection bool `toml:"reflection"`

	Gossip GossipConfig `toml:"gossip"`
	Admin  AdminConfig  `toml:"admin"`
	Raft   RaftConfig   `toml:"raft"`
	Lease  LeaseConfig  `toml:"lease"`
	Hosts  HostsConfig  `toml:"hosts"`
	API    APIConfig    `toml:"api"`
	Log    LogConfig    `toml:"log"`
	// Stonith are commands that switch storage hosts off. Default: none.
	Stonith []StonithConfig `toml:"stonith"`

	// What a file cannot hold. All may be zero.

	// Logger receives the node's messages. Nil: one made from Log, on stderr.
	Logger *slog.Logger `toml:"-"`
	// Version and Revision of the program, for status and metrics.
	Version  string `toml:"-"`
	Revision string `toml:"-"`
	// Socket is used instead of opening Listen. Run closes it.
	Socket net.Listener `toml:"-"`
	// Connections bounds those of the TLS port.
	Connections identity.Limits `toml:"-"`
	// AdminSocket is used instead of opening Admin.Listen. Run closes it.
	AdminSocket net.Listener `toml:"-"`
}

// GossipConfig of the ring in which nodes and agents see each other. It is an
// observer's hint; the cluster works without.
type GossipConfig struct {
	// Bind is IP:port, UDP and TCP. Empty: no gossip.
	Bind string `toml:"bind"`
	// Advertise is IP:port that others use. Default: as bound.
	Advertise string `toml:"advertise"`
	// KeyFile holds 32 bytes, raw or in base64 or hex, the same in the whole
	// cluster. Default: gossip.key in PKIDir.
	KeyFile string `toml:"key_file"`
	// Join names members, host:port.
	Join []string `toml:"join"`
	// Profile is local, lan (default) or wan.
	Profile string `toml:"profile"`
}

// APIConfig bounds what one user of the API may ask for.
type APIConfig struct {
	// RequestsPerSecond of one identity over time; agents and control nodes are
	// exempt. Default 2000; negative for no limit.
	RequestsPerSecond float64 `toml:"requests_per_second"`
	// Burst is how many requests may come at once. Default: twice RequestsPerSecond.
	Burst int `toml:"burst"`
}

// AdminConfig of the plain listener for /metrics, /livez and /readyz.
type AdminConfig struct {
	// Listen is host:port. Default 127.0.0.1:7401.
	Listen string `toml:"listen"`
	// Pprof serves /debug/pprof too.
	Pprof bool `toml:"pprof"`
}

// RaftConfig holds the log's clocks.
type RaftConfig struct {
	// HeartbeatTimeout after which a follower seeks votes. Default 3 s, at least 100 ms.
	HeartbeatTimeout time.Duration `toml:"heartbeat_timeout"`
	// ElectionTimeout of a candidate. Default: HeartbeatTimeout; never less.
	ElectionTimeout time.Duration `toml:"election_timeout"`
	// LeaderLeaseTimeout without a majority after which a leader stands down.
	// Default: HeartbeatTimeout; never more.
	LeaderLeaseTimeout time.Duration `toml:"leader_lease_timeout"`
	// StoreTimeout of one write to the log, after which the process gives up. Default 10 s.
	StoreTimeout time.Duration `toml:"store_timeout"`
	// PromoteAfter is how long a joined node is caught up before it votes. Default 10 s.
	PromoteAfter time.Duration `toml:"promote_after"`
	// TrailingLogs kept after a snapshot, in entries. Default 50,000.
	TrailingLogs uint64 `toml:"trailing_logs"`
	// SnapshotThreshold in new entries. Default 16,384.
	SnapshotThreshold uint64 `toml:"snapshot_threshold"`
}

// LeaseConfig is the right of agents to serve writes (reliability.md 3.3). The
// agents' own margins must be the same everywhere.
type LeaseConfig struct {
	// Duration D_a that a grant lasts, from when the agent sent its request. Default 10 s.
	Duration time.Duration `toml:"duration"`
	// Wait D_c of the leader until it calls a lease expired. Default 15 s.
	Wait time.Duration `toml:"wait"`
	// Renew is how often agents renew. Default 2 s.
	Renew time.Duration `toml:"renew"`
	// Margin before the end at which an agent stops serving by itself. Default 4 s.
	Margin time.Duration `toml:"margin"`
	// Drift is the assumed rate error of any clock, 0 to 0.2. Default 0.01.
	Drift float64 `toml:"drift"`
	// Enforcement is the worst latency between the deadline and the fence. Default 1 s.
	Enforcement time.Duration `toml:"enforcement"`
}

// HostsConfig says when storage hosts count as down.
type HostsConfig struct {
	// TTL of silence. Default 10 s.
	TTL time.Duration `toml:"ttl"`
	// ReportInterval at which agents report at the least. Default 5 s, below TTL.
	ReportInterval time.Duration `toml:"report_interval"`
}

// LogConfig of the node's own messages.
type LogConfig struct {
	// Level is debug, info (default), warn or error.
	Level string `toml:"level"`
	// Format is text (default) or json.
	Format string `toml:"format"`
}

// New returns a logger that writes to w. It expects a validated configuration.
func (l LogConfig) New(w io.Writer) *slog.Logger {
	var level slog.Level
	if level.UnmarshalText([]byte(l.Level)) != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// Defaults returns c with every zero value that has a default replaced by it.
func (c Config) Defaults() Config {
	c.Listen = or(c.Listen, "0.0.0.0:7400")
	c.Advertise = or(c.Advertise, c.Listen)
	c.PKIDir = or(c.PKIDir, filepath.Join(c.DataDir, "pki"))
	c.Gossip.KeyFile = or(c.Gossip.KeyFile, filepath.Join(c.PKIDir, "gossip.key"))
	c.Gossip.Profile = or(c.Gossip.Profile, "lan")
	c.Admin.Listen = or(c.Admin.Listen, "127.0.0.1:7401")
	c.Raft.HeartbeatTimeout = or(c.Raft.HeartbeatTimeout, 3*time.Second)
	c.Raft.ElectionTimeout = or(c.Raft.ElectionTimeout, c.Raft.HeartbeatTimeout)
	c.Raft.LeaderLeaseTimeout = or(c.Raft.LeaderLeaseTimeout, c.Raft.HeartbeatTimeout)
	c.Raft.StoreTimeout = or(c.Raft.StoreTimeout, 10*time.Second)
	c.Raft.PromoteAfter = or(c.Raft.PromoteAfter, 10*time.Second)
	c.Lease = c.Lease.defaults()
	c.Stonith = stonithDefaults(c.Stonith)
	c.Hosts.TTL = or(c.Hosts.TTL, 10*time.Second)
	c.Hosts.ReportInterval = or(c.Hosts.ReportInterval, 5*time.Second)
	c.Log.Level = or(c.Log.Level, "info")
	c.Log.Format = or(c.Log.Format, "text")
	return c
}

func (l LeaseConfig) defaults() LeaseConfig {
	l.Duration = or(l.Duration, 10*time.Second)
	l.Wait = or(l.Wait, 15*time.Second)
	l.Renew = or(l.Renew, 2*time.Second)
	l.Margin = or(l.Margin, 4*time.Second)
	l.Drift = or(l.Drift, 0.01)
	l.Enforcement = or(l.Enforcement, time.Second)
	return l
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// RaftDir is where the log of a node with this data directory lives.
func RaftDir(dataDir string) string { return filepath.Join(dataDir, "raft") }

// AuditDir is where a node with this data directory keeps its audit files.
func AuditDir(dataDir string) string { return filepath.Join(dataDir, "audit") }

// problems checks the law of leases: the leader's wait outlasts the agent's
// lease whatever their clocks do, and a lease survives two lost renewals.
func (l LeaseConfig) problems() []error {
	var out []error
	if l.Drift < 0 || l.Drift > 0.2 {
		out = append(out, fmt.Errorf("lease.drift is %g, 0 to 0.2 are allowed", l.Drift))
	}
	for name, d := range map[string]time.Duration{
		"duration": l.Duration, "wait": l.Wait, "renew": l.Renew, "margin": l.Margin, "enforcement": l.Enforcement,
	} {
		if d <= 0 || d > time.Hour {
			out = append(out, fmt.Errorf("lease.%s is %s, more than 0 to 1h are allowed", name, d))
		}
	}
	if least := time.Duration(float64(l.Duration)*(1+2*l.Drift)) + l.Enforcement; l.Wait < least {
		out = append(out, fmt.Errorf("lease.wait is %s, at least duration*(1+2*drift)+enforcement = %s is needed", l.Wait, least))
	}
	if 3*l.Renew > l.Duration-l.Margin {
		out = append(out, fmt.Errorf("lease.renew is %s, three of them must fit into duration-margin = %s", l.Renew, l.Duration-l.Margin))
	}
	return out
}
