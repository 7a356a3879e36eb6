package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	zfsAgentConfig = `name = "storage-N"
data_dir = "/var/lib/tarn-agentS"
listen = "127.0.0.1:741N"
join = ["127.0.0.1:7400"]
availability_zone = "zone-N"
storage = "zfs"

[[pool]]
name = "tankN"
mountpoint = "/srv/tankN"
replication_domain = "main"

[admin]
listen = "127.0.0.1:742N"

[helper]
socket = "/run/tarnS/helper.sock"
deadman_socket = "/run/tarn-deadmanS/deadman.sock"
data_dir = "/var/lib/tarn-helperS"

[fence]
class = "CLASS"
`
	// second makes the units of another agent on the same machine out of the package's.
	second = `set -e
cd /usr/lib/systemd/system
for u in agent helper deadman; do
	# An agent that stands still is missed sooner than the package's.
	sed -e "s#^WatchdogSec=.*#WatchdogSec=15s#" -e "s#/etc/tarn/agent.toml#/etc/tarn/agent$1.toml#" -e "s#tarn-\(agent\|helper\|deadman\)\.service#tarn-\1$1.service#g" \
	    -e "s#^StateDirectory=tarn-\(.*\)#StateDirectory=tarn-\1$1#" -e "s#^RuntimeDirectory=\(.*\)#RuntimeDirectory=\1$1#" \
	    "tarn-$u.service" >"/etc/systemd/system/tarn-$u$1.service"
done`
)

// suffix of an agent's units and files: the first has the package's own.
func suffix(n string) string { return strings.TrimPrefix(n, "1") }

// numbered fills in which of the two agents is meant.
func numbered(text, n string) string {
	class := map[string]string{"1": "helper", "2": "kernel"}[n]
	return strings.NewReplacer("CLASS", class, "N", n, "S", suffix(n)).Replace(text)
}

// The units under a systemd that boots for them, with all that they forbid, on real pools:
// agents of an ordinary user's create, replicate and promote.
func TestUnitsUnderSystemd(t *testing.T) {
	needs(t, "zfs-fuse", "zpool", "nft")
	m := newMachine(t, underSystemd)
	packages := m.copyIn(debs(t, "1.0"))
	m.eventually("systemd is up", "sh", "-c", `case $(systemctl is-system-running) in running|degraded|offline) ;; *) exit 1 ;; esac`)
	if m.run("sh", "-c", "systemctl is-system-running || true") == "offline\n" {
		t.Skip("skipped: this machine cannot boot a systemd of its own")
	}
	m.run("dpkg", "-i", packages[0])
	m.pools("1", "2")
	m.configureControl()
	m.run("systemctl", "enable", "--now", "tarn-controlplane.service")
	m.eventually("the control plane answers", "tarn", "--config", "/root/client.toml", "status")
	for _, n := range []string{"1", "2"} {
		m.agentUnits(n)
		m.inOrder(n)
	}
	m.mainJob()
	m.noRights()
	m.fences()
	m.deaths()
	m.backupOperator()
	m.hostRunbooks()
	m.backedUp()
	m.run("dpkg", "--purge", "tarn")
	m.run("sh", "-c", "! systemctl is-active --quiet tarn-controlplane.service && zfs list tank1/tarn")
}

// pools starts the machine's own zfs-fuse and makes pools in files.
func (m *machine) pools(names ...string) {
	m.t.Helper()
	m.run("mkdir", "-p", "/run/zfs", "/run/lock/zfs", "/var/lib/zfs", "/var/lock/zfs")
	m.run("systemd-run", "--unit=pools", "zfs-fuse", "--no-daemon", "--no-kstat-mount", "-m", "64")
	m.eventually("zfs-fuse answers", "zpool", "list")
	for _, n := range names {
		m.run("truncate", "-s", "8G", "/var/tank"+n)
		m.run("zpool", "create", "-m", "none", "tank"+n, "/var/tank"+n)
	}
}

// agentUnits configures one agent as deploy/README.md says, and enables it.
func (m *machine) agentUnits(n string) {
	m.t.Helper()
	data := "/var/lib/tarn-agent" + suffix(n)
	if suffix(n) != "" {
		m.run("sh", "-c", second, "sh", n)
		m.run("install", "-d", "-o", "tarn-agent", "-g", "tarn-agent", "-m", "700", data)
	}
	token := strings.TrimSpace(m.tarn("-q", "operator", "token", "create", "agent"))
	m.run("tarn", "join", token, "--address", "127.0.0.1:7400", "--dir", data+"/pki")
	m.run("chown", "-R", "tarn-agent:", data)
	m.write("/etc/tarn/agent"+suffix(n)+".toml", numbered(zfsAgentConfig, n))
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "enable", "--now", "tarn-agent"+suffix(n)+".service")
	m.eventually("agent "+n+" is up", "sh", "-c", "tarn --config /root/client.toml host list | grep storage-"+n+" | grep -w up")
}

// inOrder checks that an agent was started when its helpers already took calls.
func (m *machine) inOrder(n string) {
	m.t.Helper()
	started := m.when("tarn-agent"+suffix(n)+".service", "ExecMainStartTimestampMonotonic")
	for _, helper := range []string{"tarn-helper", "tarn-deadman"} {
		if up := m.when(helper+suffix(n)+".service", "ActiveEnterTimestampMonotonic"); up == 0 || up > started {
			m.t.Errorf("agent %s was started at %s, its %s was up at %s", n, started, helper, up)
		}
	}
}

// mainJob is a share's life: made, written, copied, moved, with its data.
func (m *machine) mainJob() {
	m.t.Helper()
	m.tarn("share-type", "create", "gold", "--replication-type", "readable", "--rpo", "10s")
	const tarn = "tarn --config /root/client.toml "
	m.tarn("share", "create", "web", "--type", "gold", "--size", "1", "--availability-zone", "zone-1", "--wait")
	m.eventually("the share takes writes", "sh", "-c", "cd /srv/tank1/* && echo data >f && sync f")
	m.eventually("the second pool takes a replica", "sh", "-c", tarn+"replica create web --availability-zone zone-2 --wait")
	m.tarn("replica", "promote", "web/zone-2", "--wait")
	if got := m.eventually("the data is at the new owner", "sh", "-c", "cat /srv/tank2/*/f"); got != "data\n" {
		m.t.Errorf("the new owner has %q", got)
	}
	m.eventually("the new owner takes writes", "sh", "-c", "cd /srv/tank2/* && echo more >g")
}

// noRights looks at what the kernel says of the agents, and at what the helpers wrote down.
func (m *machine) noRights() {
	m.t.Helper()
	for _, n := range []string{"1", "2"} {
		status := m.run("sh", "-c", `cat /proc/$(systemctl show -p MainPID --value tarn-agent$1.service)/status`, "sh", suffix(n))
		uid := strings.TrimSpace(m.run("id", "-u", "tarn-agent"))
		for _, line := range []string{"Uid:\t" + uid + "\t" + uid, "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(status, line) {
				m.t.Errorf("agent %s lacks %q:\n%s", n, line, status)
			}
		}
		m.run("sh", "-c", `journalctl -u tarn-helper$1.service | grep -q 'msg=call uid='`, "sh", suffix(n))
	}
}

// backupOperator lets the backup's unit ask the control plane.
func (m *machine) backupOperator() {
	m.t.Helper()
	m.run("tarn", "pki", "issue", "operator", "--ca", "/root/pki", "--dir", "/etc/tarn/backup")
	m.write("/etc/tarn/backup.toml", strings.ReplaceAll(clientConfig, "/root/operator", "/etc/tarn/backup"))
	m.run("chown", "-R", "tarn:", "/etc/tarn/backup", "/etc/tarn/backup.toml")
}

// backedUp checks what the runbook and the timer have left: whole backups of the user's own.
func (m *machine) backedUp() {
	m.t.Helper()
	m.run("sh", "-ec", `for f in /var/lib/tarn/backups/*.backup; do test "$(stat -c %U:%a "$f")" = tarn:600; tarn operator snapshot inspect "$f"; done`)
	m.run("systemctl", "is-active", "tarn-backup.timer")
}

// hostRunbooks runs the commands of docs/operations.md that are for a storage host.
func (m *machine) hostRunbooks() {
	m.t.Helper()
	doc, err := os.ReadFile(filepath.Join(tree, "docs/operations.md"))
	if err != nil {
		m.t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```sh host\n(.*?)^```$").FindAllStringSubmatch(string(doc), -1)
	if len(blocks) < 5 {
		m.t.Errorf("only %d blocks were found", len(blocks))
	}
	for _, b := range blocks {
		m.run("env", "POOL=tank1", "bash", "-euc", b[1])
	}
	m.eventually("the cluster is up after all of that", "sh", "-c", "test $(tarn --config /root/client.toml -q host list --state up | wc -l) = 2")
}
