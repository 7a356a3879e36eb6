package controlplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"tarn/agent/gossip"
)

// LoadConfig reads a controlplane.toml, applies Defaults and validates. Every
// problem is in the error, keys that do not exist with their line.
func LoadConfig(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	cfg, err := ParseConfig(string(text))
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// ParseConfig is LoadConfig for the text itself.
func ParseConfig(text string) (Config, error) {
	var cfg Config
	meta, err := toml.Decode(text, &cfg)
	if err != nil {
		if at, ok := errors.AsType[toml.ParseError](err); ok {
			return Config{}, fmt.Errorf("line %d: %s", at.Position.Line, parseProblem(at))
		}
		return Config{}, err
	}
	var problems []error
	for _, key := range meta.Undecoded() {
		problems = append(problems, fmt.Errorf("line %d: unknown key %q", lineOf(text, key), key))
	}
	cfg = cfg.Defaults()
	return cfg, errors.Join(append(problems, cfg.Validate()...)...)
}

func parseProblem(at toml.ParseError) string {
	if at.LastKey == "" {
		return at.Message
	}
	return at.LastKey + ": " + at.Message
}

// lineOf finds where a key is set: the library does not say.
func lineOf(text string, key toml.Key) int {
	table, name := strings.Join(key[:len(key)-1], "."), key[len(key)-1]
	current := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if header, ok := strings.CutPrefix(line, "["); ok {
			current = strings.Trim(header, "[] ")
			if current == key.String() {
				return i + 1
			}
			continue
		}
		left, _, assigned := strings.Cut(line, "=")
		left = strings.Trim(strings.TrimSpace(left), `"'`)
		if assigned && (left == key.String() || (current == table && left == name)) {
			return i + 1
		}
	}
	return 0
}

// Validate returns every rule that c breaks, each naming its key. It expects
// Defaults to have been applied.
func (c Config) Validate() []error {
	v := &validator{}
	v.check(c.DataDir != "", "data_dir is required")
	v.check(c.BootstrapExpect >= 0 && c.BootstrapExpect <= 9, "bootstrap_expect is %d, 0 to 9 are allowed", c.BootstrapExpect)
	v.check(c.BootstrapExpect < 2 || len(c.Join) > 0, "bootstrap_expect above 1 needs join: the address of another node")
	v.listens("listen", c.Listen)
	v.reachable("advertise", c.Advertise)
	for _, a := range c.Join {
		v.reachable("join", a)
	}
	v.listens("admin.listen", c.Admin.Listen)
	c.Gossip.validate(v)
	c.Raft.validate(v)
	v.problems = append(v.problems, c.Lease.problems()...)
	validateStonith(v, c.Stonith)
	v.atLeast("hosts.ttl", c.Hosts.TTL, 100*time.Millisecond)
	v.check(c.Hosts.ReportInterval > 0 && c.Hosts.ReportInterval < c.Hosts.TTL,
		"hosts.report_interval is %s, it must be below hosts.ttl = %s", c.Hosts.ReportInterval, c.Hosts.TTL)
	var level slog.Level
	v.check(level.UnmarshalText([]byte(c.Log.Level)) == nil, "log.level is %q, debug, info, warn and error are allowed", c.Log.Level)
	v.check(c.Log.Format == "text" || c.Log.Format == "json", "log.format is %q, text and json are allowed", c.Log.Format)
	sort.SliceStable(v.problems, func(i, j int) bool { return v.problems[i].Error() < v.problems[j].Error() })
	return v.problems
}

func (g GossipConfig) validate(v *validator) {
	if g.Bind == "" {
		return
	}
	v.listens("gossip.bind", g.Bind)
	if g.Advertise != "" {
		v.reachable("gossip.advertise", g.Advertise)
	}
	for _, a := range g.Join {
		v.reachable("gossip.join", a)
	}
	switch gossip.Profile(g.Profile) {
	case gossip.ProfileLocal, gossip.ProfileLAN, gossip.ProfileWAN:
	default:
		v.check(false, "gossip.profile is %q, local, lan and wan are allowed", g.Profile)
	}
}

func (r RaftConfig) validate(v *validator) {
	v.atLeast("raft.heartbeat_timeout", r.HeartbeatTimeout, 100*time.Millisecond)
	v.atLeast("raft.election_timeout", r.ElectionTimeout, r.HeartbeatTimeout)
	v.check(r.LeaderLeaseTimeout > 0 && r.LeaderLeaseTimeout <= r.HeartbeatTimeout,
		"raft.leader_lease_timeout is %s, it must not exceed raft.heartbeat_timeout = %s", r.LeaderLeaseTimeout, r.HeartbeatTimeout)
	v.atLeast("raft.store_timeout", r.StoreTimeout, time.Second)
	v.atLeast("raft.promote_after", r.PromoteAfter, 100*time.Millisecond)
}

// validator collects problems.
type validator struct{ problems []error }

func (v *validator) check(ok bool, format string, args ...any) {
	if !ok {
		v.problems = append(v.problems, fmt.Errorf(format, args...))
	}
}

func (v *validator) atLeast(key string, d, least time.Duration) {
	v.check(d >= least, "%s is %s, %s or more is allowed", key, d, least)
}

func (v *validator) listens(key, addr string) {
	_, _, err := net.SplitHostPort(addr)
	v.check(err == nil, "%s is %q, want host:port", key, addr)
}

// reachable is for addresses that others dial.
func (v *validator) reachable(key, addr string) {
	host, port, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	v.check(err == nil && host != "" && port != "" && port != "0" && (ip == nil || !ip.IsUnspecified()),
		"%s is %q, want host:port that others can reach", key, addr)
}
