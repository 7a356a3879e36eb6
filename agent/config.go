package agent

import (
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"time"
)

// Config of an agent, as in agent.toml. Durations are Go's ("1m30s"), sizes are
// bytes with an optional unit ("100GiB"). Zero values take the defaults named
// here; see Defaults.
type Config struct {
	// Name is for people, unique in the cluster: the host in host@backend#pool. Required.
	Name string `toml:"name"`
	// DataDir holds the host's id, the export table and the dead-man's socket. Required.
	DataDir string `toml:"data_dir"`
	// Listen is host:port of the TLS port from which other agents pull. Default 0.0.0.0:7410.
	Listen string `toml:"listen"`
	// Advertise is host:port under which other agents reach Listen. Default:
	// Listen, which then must not be a wildcard.
	Advertise string `toml:"advertise"`
	// ExportHost is the name or address in export paths. Default: the host of Advertise.
	ExportHost string `toml:"export_host"`
	// Join names control-plane nodes, host:port; one is enough. Required.
	Join []string `toml:"join"`
	// AvailabilityZone of the host, up to 255 bytes. Required.
	AvailabilityZone string `toml:"availability_zone"`
	// Backend in host@backend#pool. Default: Storage.
	Backend string `toml:"backend"`
	// Storage is the engine: "dir" or "zfs". Default "dir".
	Storage string `toml:"storage"`
	// Base is the dataset below each pool that holds the replicas. Default "tarn".
	Base string `toml:"base"`
	// PKIDir holds ca.pem, node.pem and node.key. Default: pki below DataDir.
	PKIDir string `toml:"pki_dir"`
	// ReportInterval at which everything is reported at the least; it must be below
	// the control plane's hosts.ttl. Default: half of lease.duration, at most 5 s.
	ReportInterval time.Duration `toml:"report_interval"`

	Pools  []PoolConfig `toml:"pool"`
	Export ExportConfig `toml:"export"`
	Gossip GossipConfig `toml:"gossip"`
	Admin  AdminConfig  `toml:"admin"`
	Lease  LeaseConfig  `toml:"lease"`
	Fence  FenceConfig  `toml:"fence"`
	Stream StreamConfig `toml:"stream"`
	Log    LogConfig    `toml:"log"`

	Encryption EncryptionConfig `toml:"encryption"`
	Helper     HelperConfig     `toml:"helper"`

	// What a file cannot hold. All may be zero.

	// DeadmanCommand starts the helper that enforces the lease: program and
	// arguments, to which the helper's directory is added. It must call
	// RunDeadman. Empty: no helper, so that the end of a lease proves nothing.
	DeadmanCommand []string `toml:"-"`
	// Logger receives the agent's messages. Nil: one made from Log, on stderr.
	Logger *slog.Logger `toml:"-"`
	// Version and Revision of the program, for the control plane and metrics.
	Version  string `toml:"-"`
	Revision string `toml:"-"`
	// ControlPlane replaces the client made from Join.
	ControlPlane ControlPlane `toml:"-"`
	// Machine replaces what tells this machine's present life from other machines' and
	// from its other lives.
	Machine string `toml:"-"`
	// Socket is used instead of opening Listen. Run closes it.
	Socket net.Listener `toml:"-"`
	// AdminSocket is used instead of opening Admin.Listen. Run closes it.
	AdminSocket net.Listener `toml:"-"`
}

// PoolConfig is one pool of the host.
type PoolConfig struct {
	// Name of the pool, the first component of its datasets. Required.
	Name string `toml:"name"`
	// Path is the pool's directory. Required with storage "dir", not allowed with
	// others: they find a pool by its name.
	Path string `toml:"path"`
	// Capacity bounds what the pool stores. Default: what its file system has. Storage
	// "dir" only.
	Capacity Size `toml:"capacity"`
	// Mountpoint is the directory below which the replicas are mounted, each in one of
	// its own. Default: what their datasets inherit, /NAME/BASE. Storage "zfs" only.
	Mountpoint string `toml:"mountpoint"`
	// ReplicationDomain: pools in one domain replicate to each other. Default:
	// none, so that no replicas are placed here.
	ReplicationDomain string `toml:"replication_domain"`
	// ReservedPercentage of the pool that the scheduler leaves free, 0 to 99. Default 0.
	ReservedPercentage int32 `toml:"reserved_percentage"`
	// MaxOverSubscriptionRatio of promised to real space, 1 to 1000. Default 20, as in Manila.
	MaxOverSubscriptionRatio float64 `toml:"max_over_subscription_ratio"`
	// Capabilities that share types can ask for.
	Capabilities map[string]string `toml:"capabilities"`
}

// ExportConfig says what serves shares to NFS clients.
type ExportConfig struct {
	// Server is none (only a table of who may reach what), embedded (NFSv3 in the
	// agent), kernel (nfsd and exportfs) or ganesha. Default none.
	Server string `toml:"server"`
	// Listen is IP:port of the embedded server, NFSv3, or of a Ganesha that the agent
	// runs itself, NFSv4. Neither needs rpcbind.
	Listen string `toml:"listen"`
	// ExportsDir is a directory that a Ganesha includes which somebody else runs; for
	// the kernel's server, where a file per export is kept. Default with kernel:
	// /etc/exports.d.
	ExportsDir string `toml:"exports_dir"`
	// Bus is the address of the message bus of somebody else's Ganesha. Default system.
	Bus string `toml:"bus"`
	// AnyPort admits clients from ports of 1024 and above.
	AnyPort bool `toml:"any_port"`
}

// EncryptionConfig says where the keys of encrypted shares are. Storage "zfs" only.
type EncryptionConfig struct {
	// KeyDir holds one file per encrypted share, for the agent's user alone. Default:
	// keys below DataDir.
	KeyDir string `toml:"key_dir"`
}

// HelperConfig is for an agent that runs as an ordinary user: a helper with root's rights
// (tarn helper) then does for it what takes them. Storage "zfs" only.
type HelperConfig struct {
	// Socket of the helper. Default: none, so that the agent needs the rights itself.
	Socket string `toml:"socket"`
	// DeadmanSocket is that of a second helper, which does nothing but start dead-men.
	// Default: Socket.
	DeadmanSocket string `toml:"deadman_socket"`
	// User that the agent runs as, by name or number: the only one that is served.
	// Default tarn-agent.
	User string `toml:"user"`
	// DataDir is the helper's own, for root alone: export table, dead-man's hand-over.
	// Default /var/lib/tarn-helper.
	DataDir string `toml:"data_dir"`
}

// GossipConfig of the ring in which nodes and agents see each other. It is an
// observer's hint; the agent works without.
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

// AdminConfig of the plain listener for /metrics, /livez and /readyz.
type AdminConfig struct {
	// Listen is host:port. Default 127.0.0.1:7411.
	Listen string `toml:"listen"`
	// Pprof serves /debug/pprof too.
	Pprof bool `toml:"pprof"`
}

// LeaseConfig is the right to serve writes (reliability.md 3.3). Duration and
// renewal must be what the control plane is configured with.
type LeaseConfig struct {
	// Duration of a grant, from when its request was sent. Default 10 s.
	Duration time.Duration `toml:"duration"`
	// Renew is the time between renewals. Default 2 s.
	Renew time.Duration `toml:"renew"`
	// Margin before the end at which the host stops serving by itself. Default 4 s.
	Margin time.Duration `toml:"margin"`
}

// FenceConfig says what ends this host's right to write when the agent cannot, and what
// the control plane may conclude from its silence (reliability.md 3.5).
type FenceConfig struct {
	// Class is watchdog (a watchdog resets the host), kernel (the packet filter cuts
	// clients off), helper (the dead-man process alone) or none (nothing may be concluded;
	// the dead-man is there all the same). Default helper.
	Class string `toml:"class"`
	// Watchdog is the device. Default with class watchdog: /dev/watchdog.
	Watchdog string `toml:"watchdog"`
	// WatchdogTimeout without food until it resets the host: whole seconds, at most half of
	// lease.margin. Default 2 s.
	WatchdogTimeout time.Duration `toml:"watchdog_timeout"`
	// Ports of the NFS server. Default with class kernel: 2049.
	Ports []int `toml:"ports"`
	// Nft is the program of the packet filter. Default with class kernel: /usr/sbin/nft.
	Nft string `toml:"nft"`
}

// StreamConfig of replication streams.
type StreamConfig struct {
	// RateLimit of each stream that this host receives, bytes per second; the lower
	// of this and the share's own counts. 0 is none.
	RateLimit Size `toml:"rate_limit"`
	// StallTimeout ends a stream that moves no byte for so long. Default 10 min.
	StallTimeout time.Duration `toml:"stall_timeout"`
	// ReceiveTimeout ends a zfs receive that takes nothing of a stream that waits for it.
	// Default 10 min: a pool that deletes very much is busy for minutes.
	ReceiveTimeout time.Duration `toml:"receive_timeout"`
	// MaxStreams that this host sends at once. Default 64.
	MaxStreams int `toml:"max_streams"`
	// PlainNetworks are trusted: the bytes of streams to and from hosts there travel
	// without TLS, when both hosts say so. Default: none.
	PlainNetworks []Network `toml:"plain_networks"`
	// PlainListen is host:port of the port for them. Default: none, so that this host
	// sends everything inside TLS.
	PlainListen string `toml:"plain_listen"`
	// PlainAdvertise is IP:port under which others reach PlainListen. Default: PlainListen.
	PlainAdvertise string `toml:"plain_advertise"`
}

// LogConfig of the agent's own messages.
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

// maxReportInterval is what a control plane with default settings puts up with.
const maxReportInterval = 5 * time.Second

// Defaults returns c with every zero value that has a default replaced by it.
func (c Config) Defaults() Config {
	c.Listen = or(c.Listen, "0.0.0.0:7410")
	c.Advertise = or(c.Advertise, c.Listen)
	if host, _, err := net.SplitHostPort(c.Advertise); err == nil {
		c.ExportHost = or(c.ExportHost, host)
	}
	c.Storage = or(c.Storage, StorageDir)
	c.Backend = or(c.Backend, c.Storage)
	c.Base = or(c.Base, "tarn")
	c.PKIDir = or(c.PKIDir, filepath.Join(c.DataDir, "pki"))
	c.Encryption.KeyDir = or(c.Encryption.KeyDir, filepath.Join(c.DataDir, "keys"))
	c.Helper.DeadmanSocket = or(c.Helper.DeadmanSocket, c.Helper.Socket)
	c.Helper.User = or(c.Helper.User, "tarn-agent")
	c.Helper.DataDir = or(c.Helper.DataDir, "/var/lib/tarn-helper")
	c.Export.Server = or(c.Export.Server, exportNone)
	c.Gossip.KeyFile = or(c.Gossip.KeyFile, filepath.Join(c.PKIDir, "gossip.key"))
	c.Gossip.Profile = or(c.Gossip.Profile, "lan")
	c.Admin.Listen = or(c.Admin.Listen, "127.0.0.1:7411")
	c.Lease.Duration = or(c.Lease.Duration, 10*time.Second)
	c.Lease.Renew = or(c.Lease.Renew, 2*time.Second)
	c.Lease.Margin = or(c.Lease.Margin, 4*time.Second)
	c.Fence = c.Fence.defaults()
	c.ReportInterval = or(c.ReportInterval, min(c.Lease.Duration/2, maxReportInterval))
	c.Stream.StallTimeout = or(c.Stream.StallTimeout, 10*time.Minute)
	c.Stream.ReceiveTimeout = or(c.Stream.ReceiveTimeout, 10*time.Minute)
	c.Stream.MaxStreams = or(c.Stream.MaxStreams, 64)
	c.Stream.PlainAdvertise = or(c.Stream.PlainAdvertise, c.Stream.PlainListen)
	if c.Machine == "" {
		c.Machine = thisMachine()
	}
	c.Log.Level = or(c.Log.Level, "info")
	c.Log.Format = or(c.Log.Format, "text")
	pools := make([]PoolConfig, len(c.Pools))
	for i, p := range c.Pools {
		p.MaxOverSubscriptionRatio = or(p.MaxOverSubscriptionRatio, 20)
		pools[i] = p
	}
	c.Pools = pools
	return c
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}
