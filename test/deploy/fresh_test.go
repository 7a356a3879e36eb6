package deploy

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// lockedBuffer takes a process' output while others read it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

const (
	controlplaneConfig = `name = "control-1"
data_dir = "/var/lib/tarn"
listen = "127.0.0.1:7400"
bootstrap_expect = 1
`
	agentConfig = `name = "storage-1"
data_dir = "/var/lib/tarn-agent"
listen = "127.0.0.1:7410"
join = ["127.0.0.1:7400"]
availability_zone = "zone-1"

[[pool]]
name = "tank"
path = "/var/lib/tarn-agent/tank"
replication_domain = "main"
`
	clientConfig = `addresses = ["127.0.0.1:7400"]
pki = "/root/operator"
`
)

// tarn runs the program as the operator.
func (m *machine) tarn(args ...string) string {
	m.t.Helper()
	return m.run("tarn", append([]string{"--config", "/root/client.toml"}, args...)...)
}

// copyIn puts packages where the machine sees them.
func (m *machine) copyIn(files []string) []string {
	m.t.Helper()
	var inside []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			m.t.Fatal(err)
		}
		name := "/opt/" + filepath.Base(f)
		cmd := m.command(m.t.Context(), "sh", "-c", `cat >"$1"`, "sh", name)
		cmd.Stdin = bytes.NewReader(data)
		if out, err := cmd.CombinedOutput(); err != nil {
			m.t.Fatalf("copy %s: %v %s", f, err, out)
		}
		inside = append(inside, name)
	}
	return inside
}

// directories checks whose those of a new installation are.
func (m *machine) directories() {
	m.t.Helper()
	for dir, want := range map[string]string{
		"/var/lib/tarn": "tarn:tarn 700", "/var/lib/tarn-agent": "tarn-agent:tarn-agent 700", "/var/lib/tarn-helper": "root:root 700", "/etc/tarn": "root:root 755",
	} {
		if got := strings.TrimSpace(m.run("stat", "-c", "%U:%G %a", dir)); got != want {
			m.t.Errorf("%s is %s, want %s", dir, got, want)
		}
	}
}

// A machine of another init system, with what the package needs and no more of systemd.
func TestMachineWithSysusersAlone(t *testing.T) {
	m := newMachine(t, idle)
	m.run("sh", "-c", "for p in systemctl systemd-tmpfiles systemd-run; do rm $(command -v $p); done")
	packages := m.copyIn(debs(t, "1.0"))
	m.run("dpkg", "-i", packages[0])
	m.directories()
	m.run("dpkg", "--purge", "tarn")
}

// A machine that has never seen tarn: install, configure as deploy/README.md says, start
// what the units start, use it, upgrade, remove, purge.
func TestFreshMachine(t *testing.T) {
	m := newMachine(t, idle)
	packages := m.copyIn(debs(t, "1.0", "1.1"))
	m.run("dpkg", "-i", packages[0])
	m.directories()
	m.judgeUnits()
	m.configureControl()
	stopControl := m.start("tarn-controlplane.service")
	m.eventually("the control plane answers", "tarn", "--config", "/root/client.toml", "status")
	m.configureAgent()
	stopAgent := m.start("tarn-agent.service")
	m.eventually("the agent is up", "sh", "-c", "tarn --config /root/client.toml host list | grep storage-1 | grep -w up")
	m.tarn("share-type", "create", "plain")
	m.tarn("share", "create", "web", "--type", "plain", "--size", "1", "--wait")

	stopAgent()
	stopControl()
	m.run("dpkg", "-i", packages[1])
	stopControl, stopAgent = m.start("tarn-controlplane.service"), m.start("tarn-agent.service")
	m.eventually("the share is there after the upgrade", "sh", "-c", "tarn --config /root/client.toml share show web | grep -w available")
	stopAgent()
	stopControl()

	m.run("dpkg", "--remove", "tarn")
	m.run("test", "-s", "/var/lib/tarn/pki/node.key", "-a", "-s", "/etc/tarn/agent.toml", "-a", "!", "-e", "/usr/bin/tarn")
	m.run("dpkg", "--purge", "tarn")
	m.run("test", "!", "-e", "/var/lib/tarn", "-a", "!", "-e", "/var/lib/tarn-agent", "-a", "!", "-e", "/etc/tarn")
}

func (m *machine) configureControl() {
	m.t.Helper()
	m.run("tarn", "pki", "init", "fresh", "--dir", "/root/pki")
	m.run("tarn", "pki", "issue", "operator", "--ca", "/root/pki", "--dir", "/root/operator")
	m.run("tarn", "pki", "issue", "control", "--ca", "/root/pki", "--dir", "/var/lib/tarn/pki", "--data-dir", "/var/lib/tarn", "--ip", "127.0.0.1")
	m.run("cp", "/root/pki/ca.key", "/var/lib/tarn/pki/ca.key")
	m.run("chown", "-R", "tarn:", "/var/lib/tarn")
	m.write("/etc/tarn/controlplane.toml", controlplaneConfig)
	m.write("/root/client.toml", clientConfig)
}

func (m *machine) configureAgent() {
	m.t.Helper()
	token := strings.TrimSpace(m.tarn("-q", "operator", "token", "create", "agent"))
	m.run("tarn", "join", token, "--address", "127.0.0.1:7400", "--dir", "/var/lib/tarn-agent/pki")
	m.run("chown", "-R", "tarn-agent:", "/var/lib/tarn-agent")
	m.write("/etc/tarn/agent.toml", agentConfig)
}
