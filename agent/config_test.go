package agent

import (
	"strings"
	"testing"
	"time"
)

const goodConfig = `
name = "h1"
data_dir = "/var/lib/tarn"
advertise = "10.0.0.1:7410"
join = ["10.0.0.9:7400"]
availability_zone = "az1"

[[pool]]
name = "tank"
path = "/srv/tank"
capacity = "100GiB"
replication_domain = "d"
reserved_percentage = 5
capabilities = { disk = "nvme" }
`

func TestConfigDefaults(t *testing.T) {
	cfg, err := ParseConfig(goodConfig)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Pools[0].Capacity != 100<<30 || cfg.Pools[0].MaxOverSubscriptionRatio != 20 || cfg.Pools[0].Capabilities["disk"] != "nvme" {
		t.Errorf("pool %+v", cfg.Pools[0])
	}
	if cfg.Backend != "dir" || cfg.Base != "tarn" || cfg.ExportHost != "10.0.0.1" || cfg.PKIDir != "/var/lib/tarn/pki" ||
		cfg.ReportInterval != 5*time.Second || cfg.Lease.Duration != 10*time.Second || cfg.Listen != "0.0.0.0:7410" {
		t.Errorf("config %+v", cfg)
	}
	short, err := ParseConfig(goodConfig + "[lease]\nduration = \"3s\"\nrenew = \"500ms\"\nmargin = \"1s\"\n")
	if err != nil || short.ReportInterval != 1500*time.Millisecond {
		t.Errorf("report interval %v, %v", short.ReportInterval, err)
	}
}

func TestZFSConfigNamesPools(t *testing.T) {
	text := strings.NewReplacer("path = \"/srv/tank\"\n", "", "capacity = \"100GiB\"\n", "mountpoint = \"/srv/shares\"\n",
		"availability_zone", "storage = \"zfs\"\navailability_zone").Replace(goodConfig)
	cfg, err := ParseConfig(text + "[export]\nserver = \"ganesha\"\nlisten = \"10.0.0.1:2049\"\n")
	if err != nil || cfg.Backend != "zfs" || cfg.Pools[0].Mountpoint != "/srv/shares" {
		t.Errorf("%+v, %v", cfg.Pools, err)
	}
}

func TestConfigProblemsNameKeyAndLine(t *testing.T) {
	for _, c := range []struct{ change, with, want string }{
		{`name = "h1"`, `nam = "h1"`, `line 2: unknown key "nam"`},
		{`name = "h1"`, `name = "h@1"`, `name is "h@1"`},
		{`data_dir = "/var/lib/tarn"`, ``, "data_dir is required"},
		{`advertise = "10.0.0.1:7410"`, ``, `advertise is "0.0.0.0:7410", want host:port that others can reach`},
		{`join = ["10.0.0.9:7400"]`, ``, "join is required"},
		{`availability_zone = "az1"`, ``, "availability_zone"},
		{`reserved_percentage = 5`, `reserved_percentage = 100`, "pool[0].reserved_percentage is 100"},
		{`path = "/srv/tank"`, `path = "tank"`, `pool[0].path is "tank"`},
		{`path = "/srv/tank"`, "path = \"/srv/tank\"\nfoo = 1", `line 11: unknown key "pool.foo"`},
		{`capacity = "100GiB"`, `capacity = "lots"`, "size"},
		{`availability_zone = "az1"`, "availability_zone = \"az1\"\nstorage = \"zfs\"", `pool[0].path is not for storage zfs`},
		{`[[pool]]`, "[lease]\nrenew = \"3s\"\n[[pool]]", "three of them must fit"},
		{`[[pool]]`, "[gossip]\nbind = \"0.0.0.0:1\"\nprofile = \"mars\"\n[[pool]]", `gossip.profile is "mars"`},
		{`[[pool]]`, "[stream]\nplain_networks = [\"10.1.2.3/16\"]\n[[pool]]", `write 10.1.0.0/16`},
		{`[[pool]]`, "[stream]\nplain_listen = \"10.1.0.1:7412\"\n[[pool]]", "needs stream.plain_networks"},
		{`[[pool]]`, "[stream]\nplain_networks = [\"10.1.0.0/16\"]\nplain_listen = \"0.0.0.0:7412\"\n[[pool]]", "want IP:port that others can reach"},
		{`capacity = "100GiB"`, `mountpoint = "/srv/x"`, "pool[0].mountpoint is for storage zfs"},
		{`[[pool]]`, "[export]\nserver = \"samba\"\n[[pool]]", `export.server is "samba"`},
		{`[[pool]]`, "[export]\nlisten = \"10.0.0.1:2049\"\n[[pool]]", "name a server"},
		{`[[pool]]`, "[export]\nserver = \"ganesha\"\n[[pool]]", "needs listen"},
		{`[[pool]]`, "[export]\nserver = \"ganesha\"\nlisten = \"host:2049\"\n[[pool]]", `export.listen is "host:2049"`},
		{`[[pool]]`, "[export]\nserver = \"kernel\"\nlisten = \"10.0.0.1:2049\"\n[[pool]]", "export.listen and export.bus are not for server kernel"},
		{`[[pool]]`, "[export]\nserver = \"embedded\"\n[[pool]]", "IP:port is needed with server embedded"},
		{`[[pool]]`, "[export]\nserver = \"embedded\"\nlisten = \"127.0.0.1:2049\"\nbus = \"system\"\n[[pool]]", "are for other servers than embedded"},
		{`[[pool]]`, "[fence]\nclass = \"prayer\"\n[[pool]]", `fence.class is "prayer"`},
		{`[[pool]]`, "[fence]\nwatchdog = \"/dev/watchdog1\"\n[[pool]]", "are for class watchdog"},
		{`[[pool]]`, "[fence]\nclass = \"watchdog\"\nports = [2049]\n[[pool]]", "are for class kernel"},
		{`[[pool]]`, "[fence]\nclass = \"watchdog\"\nwatchdog_timeout = \"3s\"\n[[pool]]", "at most half of lease.margin = 4s"},
		{`[[pool]]`, "[fence]\nclass = \"watchdog\"\nwatchdog_timeout = \"1500ms\"\n[[pool]]", "whole seconds"},
		{`[[pool]]`, "[fence]\nclass = \"kernel\"\nports = [0]\n[[pool]]", "port 0"},
		{`[[pool]]`, "[fence]\nclass = \"kernel\"\nnft = \"nft\"\n[[pool]]", "absolute path"},
		{`[[pool]]`, "[log]\nlevel = \"loud\"\n[[pool]]", `log.level is "loud"`},
		{`[[pool]]`, "[[pool]]\nname = \"tank\"\npath = \"/other\"\n[[pool]]", `name "tank" is taken`},
		{`name = "h1"`, `name = `, "line 2"},
	} {
		_, err := ParseConfig(strings.Replace(goodConfig, c.change, c.with, 1))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("with %q: %v, want %q", c.with, err, c.want)
		}
	}
	if _, err := LoadConfig("/nonexistent/agent.toml"); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "4096": 4096, "1k": 1000, "1K": 1000, "1KiB": 1024, "2Mi": 2 << 20, "100GiB": 100 << 30, "1.5T": 1.5e12, "10 MB": 1e7, "7B": 7,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q is %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1Xi", "1i", "NaN", "Inf", "1e30", "0x10G"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(goodConfig)
	f.Add("[[pool]]\nx.y = 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := ParseConfig(text)
		if err == nil && len(cfg.Validate()) > 0 {
			t.Fatal("an invalid configuration was accepted")
		}
	})
}
