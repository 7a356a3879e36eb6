package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"tarn/agent/gossip"
	"tarn/zfs"
)

// Storage engines that this build has.
const (
	// StorageDir keeps datasets in plain directories.
	StorageDir = "dir"
	// StorageZFS drives zfs(8) and zpool(8) of this machine.
	StorageZFS = "zfs"
)

// LoadConfig reads an agent.toml, applies Defaults and validates. Every problem
// is in the error, keys that do not exist with their line.
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
			return Config{}, fmt.Errorf("line %d: %s", at.Position.Line, at.Message)
		}
		return Config{}, err
	}
	var problems []error
	told := map[string]bool{}
	for _, key := range meta.Undecoded() {
		if !told[key.String()] {
			problems = append(problems, fmt.Errorf("%sunknown key %q", linesOf(text, key), key))
		}
		told[key.String()] = true
	}
	cfg = cfg.Defaults()
	return cfg, errors.Join(append(problems, cfg.Validate()...)...)
}

// linesOf says where a key is set, which the library does not: "line 3: " or
// "lines 3, 9: ", and nothing when it is written in a way that is not found.
func linesOf(text string, key toml.Key) string {
	table, name := strings.Join(key[:len(key)-1], "."), key[len(key)-1]
	current, found := "", []string{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if header, ok := strings.CutPrefix(line, "["); ok {
			header, _, _ = strings.Cut(header, "#")
			current = strings.Trim(header, "[] \t")
			if current == key.String() {
				found = append(found, strconv.Itoa(i+1))
			}
			continue
		}
		left, _, assigned := strings.Cut(line, "=")
		left = strings.Trim(strings.TrimSpace(left), `"'`)
		if assigned && (current == table && left == name || current == "" && left == key.String()) {
			found = append(found, strconv.Itoa(i+1))
		}
	}
	switch len(found) {
	case 0:
		return ""
	case 1:
		return "line " + found[0] + ": "
	}
	return "lines " + strings.Join(found, ", ") + ": "
}

// Validate returns every rule that c breaks, each naming its key. It expects
// Defaults to have been applied.
func (c Config) Validate() []error {
	v := &validator{}
	v.check(c.DataDir != "", "data_dir is required")
	v.name("name", c.Name)
	v.name("backend", c.Backend)
	v.check(c.AvailabilityZone != "" && len(c.AvailabilityZone) <= gossip.MaxZone,
		"availability_zone is %q, 1 to %d bytes are needed", c.AvailabilityZone, gossip.MaxZone)
	v.storage(c.Storage)
	v.listens("listen", c.Listen)
	v.reachable("advertise", c.Advertise)
	v.check(len(c.Join) > 0 || c.ControlPlane != nil, "join is required: the address of a control-plane node")
	for _, a := range c.Join {
		v.reachable("join", a)
	}
	v.listens("admin.listen", c.Admin.Listen)
	v.check(zfs.ValidateComponent(c.Base) == nil && !strings.HasPrefix(c.Base, "."), "base is %q, one component of a dataset name is needed", c.Base)
	v.check(c.ReportInterval >= 100*time.Millisecond && c.ReportInterval <= time.Minute,
		"report_interval is %s, 100ms to 1m are allowed", c.ReportInterval)
	c.Stream.validate(v)
	c.Export.validate(v)
	c.Gossip.validate(v)
	c.helper(v)
	c.Lease.validate(v)
	c.Fence.validate(v, c.Lease.Margin)
	c.Log.validate(v)
	c.pools(v)
	return v.problems
}

func (c Config) pools(v *validator) {
	v.check(len(c.Pools) > 0, "pool: at least one [[pool]] is needed")
	var names, paths []string
	for i, p := range c.Pools {
		key := fmt.Sprintf("pool[%d].", i)
		v.check(zfs.ValidateComponent(p.Name) == nil, "%sname is %q, one component of a dataset name is needed", key, p.Name)
		v.check(!slices.Contains(names, p.Name), "%sname %q is taken by another pool", key, p.Name)
		paths = append(paths, p.place(v, key, c.Storage, paths))
		v.check(p.ReservedPercentage >= 0 && p.ReservedPercentage < 100, "%sreserved_percentage is %d, 0 to 99 are allowed", key, p.ReservedPercentage)
		v.check(p.MaxOverSubscriptionRatio >= 1 && p.MaxOverSubscriptionRatio <= 1000,
			"%smax_over_subscription_ratio is %g, 1 to 1000 are allowed", key, p.MaxOverSubscriptionRatio)
		for capability := range p.Capabilities {
			v.check(!strings.HasPrefix(strings.ToLower(capability), "tarn:"), "%scapabilities: %q is for the agent to say", key, capability)
		}
		names = append(names, p.Name)
	}
}

// place checks where a pool is, which each engine is told in its own way, and gives
// the directory that no other pool may have; "" for none.
func (p PoolConfig) place(v *validator, key, storage string, taken []string) string {
	v.check(p.Capacity >= 0, "%scapacity must not be negative", key)
	dir, name := p.Path, "path"
	if storage == StorageZFS {
		v.check(p.Path == "", "%spath is not for storage zfs: a pool is found by its name; remove the key", key)
		v.check(p.Capacity == 0, "%scapacity is not for storage zfs: the pool says how large it is; remove the key", key)
		dir, name = p.Mountpoint, "mountpoint"
		if dir == "" {
			return ""
		}
	} else {
		v.check(p.Mountpoint == "", "%smountpoint is for storage zfs: a directory pool mounts below its path; remove the key", key)
	}
	v.check(filepath.IsAbs(dir) && filepath.Clean(dir) != "/", "%s%s is %q, an absolute path below / is needed", key, name, dir)
	dir = filepath.Clean(dir)
	v.check(!slices.Contains(taken, dir), "%s%s %q is taken by another pool", key, name, dir)
	return dir
}

func (c Config) helper(v *validator) {
	h := c.Helper
	if h.Socket == "" {
		v.check(h.DeadmanSocket == "", "helper.deadman_socket without helper.socket")
		return
	}
	v.check(filepath.IsAbs(h.Socket) && filepath.IsAbs(h.DeadmanSocket) && len(h.Socket) < 100 && len(h.DeadmanSocket) < 100,
		"helper.socket and helper.deadman_socket are absolute paths of less than 100 bytes")
	v.check(filepath.IsAbs(h.DataDir), "helper.data_dir is %q, an absolute path is needed", h.DataDir)
	v.check(c.Storage == StorageZFS, "helper is for storage zfs: directories need no rights; remove the table")
	v.check(c.Export.Server != exportEmbedded, "export.server embedded runs in the agent, which has no rights with a helper: use kernel or ganesha")
}

func (e ExportConfig) validate(v *validator) {
	switch e.Server {
	case exportNone:
		v.check(e == ExportConfig{Server: exportNone}, "export: with server none nothing else is set: name a server: embedded, kernel or ganesha")
	case exportEmbedded:
		addr, err := netip.ParseAddrPort(e.Listen)
		v.check(err == nil && addr.Port() != 0, "export.listen is %q, IP:port is needed with server embedded", e.Listen)
		v.check(e.ExportsDir == "" && e.Bus == "", "export.exports_dir and export.bus are for other servers than embedded")
	case exportKernel:
		v.check(e.Listen == "" && e.Bus == "", "export.listen and export.bus are not for server kernel")
	case exportGanesha:
		v.check((e.Listen == "") != (e.ExportsDir == ""),
			"export: server ganesha needs listen, for one that the agent runs, or exports_dir, for one that is there; not both")
		if e.Listen != "" {
			addr, err := netip.ParseAddrPort(e.Listen)
			v.check(err == nil && addr.Port() != 0, "export.listen is %q, IP:port is needed", e.Listen)
			v.check(e.Bus == "", "export.bus is for a Ganesha that somebody else runs")
		}
	default:
		v.check(false, "export.server is %q, none, embedded, kernel and ganesha are allowed", e.Server)
	}
	v.check(e.ExportsDir == "" || filepath.IsAbs(e.ExportsDir), "export.exports_dir is %q, an absolute path is needed", e.ExportsDir)
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

// validate checks the agent's part of the law of leases: a lease survives two
// lost renewals, and there is time to stop.
func (l LeaseConfig) validate(v *validator) {
	v.check(l.Renew >= 50*time.Millisecond, "lease.renew is %s, 50ms or more is allowed", l.Renew)
	v.check(l.Margin >= 50*time.Millisecond, "lease.margin is %s, 50ms or more is allowed", l.Margin)
	v.check(l.Duration <= time.Hour, "lease.duration is %s, 1h or less is allowed", l.Duration)
	v.check(3*l.Renew <= l.Duration-l.Margin,
		"lease.renew is %s, three of them must fit into duration-margin = %s", l.Renew, l.Duration-l.Margin)
}

func (l LogConfig) validate(v *validator) {
	var level slog.Level
	v.check(level.UnmarshalText([]byte(l.Level)) == nil, "log.level is %q, debug, info, warn and error are allowed", l.Level)
	v.check(l.Format == "text" || l.Format == "json", "log.format is %q, text and json are allowed", l.Format)
}

// validator collects problems.
type validator struct{ problems []error }

func (v *validator) check(ok bool, format string, args ...any) {
	if !ok {
		v.problems = append(v.problems, fmt.Errorf(format, args...))
	}
}

// name is for parts of host@backend#pool.
func (v *validator) name(key, name string) {
	v.check(name != "" && len(name) <= 255 && !strings.ContainsAny(name, "@#/ \t\r\n\x00"),
		"%s is %q, 1 to 255 bytes without spaces, @, # and / are needed", key, name)
}

func (v *validator) storage(engine string) {
	v.check(engine == StorageDir || engine == StorageZFS, "storage: this build has no engine %q: use zfs, or dir for a playground", engine)
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

// Size is a number of bytes, in TOML an integer or a string with a unit: k, M, G
// and T are powers of 1000, Ki, Mi, Gi and Ti of 1024, a final B is optional.
type Size int64

// UnmarshalTOML reads an integer or a string.
func (s *Size) UnmarshalTOML(value any) error {
	switch value := value.(type) {
	case int64:
		*s = Size(value)
		return nil
	case string:
		n, err := ParseSize(value)
		*s = n
		return err
	}
	return fmt.Errorf("size %v is neither a number nor a string", value)
}

// ParseSize reads "4096", "100GiB", "1.5T".
func ParseSize(text string) (Size, error) {
	rest := strings.TrimSuffix(strings.TrimSpace(text), "B")
	base := 1000.0
	if cut, ok := strings.CutSuffix(rest, "i"); ok {
		rest, base = cut, 1024
	}
	factor := 1.0
	for i, unit := range []string{"kK", "M", "G", "T"} {
		if rest != "" && strings.ContainsRune(unit, rune(rest[len(rest)-1])) {
			rest = rest[:len(rest)-1]
			for range i + 1 {
				factor *= base
			}
			break
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
	if err != nil || !(n >= 0) || n*factor >= 1<<62 || base == 1024 && factor == 1 {
		return 0, fmt.Errorf("size %q: want bytes with an optional unit, as in 100GiB", text)
	}
	return Size(n * factor), nil
}
