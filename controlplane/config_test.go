package controlplane_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/controlplane"
)

const smallest = "data_dir = \"/var/lib/tarn\"\nadvertise = \"192.0.2.1:7400\"\n"

func TestConfigDefaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "controlplane.toml")
	if err := os.WriteFile(path, []byte(smallest), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := controlplane.LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.PKIDir != "/var/lib/tarn/pki" || cfg.Raft.HeartbeatTimeout != 3*time.Second || cfg.Lease.Wait != 15*time.Second || cfg.Admin.Listen != "127.0.0.1:7401" {
		t.Errorf("defaults: %+v", cfg)
	}
}

func TestConfigReadsEveryKey(t *testing.T) {
	cfg, err := controlplane.ParseConfig(`
name = "c1"
data_dir = "/srv/tarn"
listen = "127.0.0.1:7400"
join = ["127.0.0.2:7400", "127.0.0.3:7400"]
bootstrap_expect = 3
pki_dir = "/etc/tarn/pki"
reflection = true
[gossip]
bind = "127.0.0.1:7402"
advertise = "127.0.0.1:7402"
key_file = "/etc/tarn/gossip.key"
join = ["127.0.0.2:7402"]
profile = "local"
[admin]
listen = "127.0.0.1:7403"
pprof = true
[raft]
heartbeat_timeout = "1s"
election_timeout = "2s"
leader_lease_timeout = "500ms"
store_timeout = "4s"
promote_after = "3s"
trailing_logs = 100
snapshot_threshold = 50
[lease]
duration = "3s"
wait = "5s"
renew = "500ms"
margin = "1s"
drift = 0.02
enforcement = "1500ms"
[hosts]
ttl = "4s"
report_interval = "2s"
[log]
level = "debug"
format = "json"
`)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Gossip.Profile != "local" || cfg.Raft.LeaderLeaseTimeout != 500*time.Millisecond || cfg.Lease.Drift != 0.02 ||
		!cfg.Admin.Pprof || cfg.Hosts.TTL != 4*time.Second || cfg.Log.Format != "json" || !slices.Equal(cfg.Gossip.Join, []string{"127.0.0.2:7402"}) {
		t.Errorf("%+v", cfg)
	}
}

func TestConfigRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":            {smallest + "datadir = 1\n", `line 3: unknown key "datadir"`},
		"unknown key in a table": {smallest + "[raft]\nheartbeat_timeout = \"1s\"\nheartbeet = 2\n", `line 5: unknown key "raft.heartbeet"`},
		"unknown table":          {smallest + "\n[rafts]\nx = 1\n", `unknown key "rafts`},
		"not TOML":               {"data_dir = \n", "line 1:"},
		"wrong type":             {smallest + "bootstrap_expect = \"three\"\n", "bootstrap_expect"},
		"bad duration":           {smallest + "[raft]\nheartbeat_timeout = \"soon\"\n", "heartbeat_timeout"},
		"no data_dir":            {"advertise = \"192.0.2.1:1\"\n", "data_dir is required"},
		"wildcard advertised":    {"data_dir = \"/x\"\n", "advertise is \"0.0.0.0:7400\""},
		"expect without join":    {smallest + "bootstrap_expect = 3\n", "bootstrap_expect above 1 needs join"},
		"expect too many":        {smallest + "bootstrap_expect = 10\njoin = [\"192.0.2.2:1\"]\n", "0 to 9"},
		"lease too long": {smallest + "[lease]\nduration = \"14s\"\n",
			"lease.wait is 15s, at least duration*(1+2*drift)+enforcement = 15.28s is needed"},
		"renewals too rare":      {smallest + "[lease]\nrenew = \"3s\"\n", "lease.renew is 3s"},
		"stonith without hosts":  {smallest + "[[stonith]]\noff = [\"/bin/true\"]\nstatus = [\"/bin/true\"]\n", "stonith[0].hosts is required"},
		"stonith without status": {smallest + "[[stonith]]\nhosts = [\"a\"]\noff = [\"/bin/true\"]\n", "stonith[0]: status: a program"},
		"stonith by a shell":     {smallest + "[[stonith]]\nhosts = [\"a\"]\noff = [\"poweroff a\"]\nstatus = [\"/bin/true\"]\n", "absolute path"},
		"drift":                  {smallest + "[lease]\ndrift = 0.5\n", "lease.drift"},
		"negative margin":        {smallest + "[lease]\nmargin = \"-1s\"\n", "lease.margin"},
		"report_interval":        {smallest + "[hosts]\nttl = \"2s\"\n", "hosts.report_interval"},
		"election below heart":   {smallest + "[raft]\nelection_timeout = \"1s\"\n", "raft.election_timeout"},
		"lease above heartbeat":  {smallest + "[raft]\nleader_lease_timeout = \"9s\"\n", "raft.leader_lease_timeout"},
		"gossip profile":         {smallest + "[gossip]\nbind = \"127.0.0.1:1\"\nprofile = \"moon\"\n", "gossip.profile"},
		"log level":              {smallest + "[log]\nlevel = \"loud\"\n", "log.level"},
	} {
		if _, err := controlplane.ParseConfig(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestConfigNamesEveryProblem(t *testing.T) {
	_, err := controlplane.ParseConfig("nonsense = 1\nlisten = \"x\"\n[log]\nformat = \"xml\"\n")
	for _, want := range []string{"nonsense", "data_dir", "listen", "log.format"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not name %s", err, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(smallest)
	f.Add(smallest + "[raft]\nheartbeat_timeout = \"1s\"\n[[x]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := controlplane.ParseConfig(text)
		if err == nil && cfg.DataDir == "" {
			t.Errorf("%q passes without a data directory", text)
		}
	})
}
