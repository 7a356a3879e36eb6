package deploy

import (
	"strings"
)

const dropIns = "/usr/share/doc/tarn/examples/"

// fences checks that the units grant no fence class what it needs but by the drop-in that
// docs/operations.md names, and that this is all that the class needs.
func (m *machine) fences() {
	m.t.Helper()
	m.device()
	// Host 2 has class kernel and owns the share.
	const shown = "tarn --config /root/client.toml host show storage-2"
	m.eventually("the host says what its class lacks", "sh", "-c", shown+" | grep -F 'packet filter:'")
	m.run("sh", "-c", `! nft list table inet tarn_2049`)
	m.run("install", "-D", "-m", "644", dropIns+"fence-kernel.conf", "/etc/systemd/system/tarn-deadman2.service.d/fence.conf")
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "restart", "tarn-deadman2.service", "tarn-agent2.service")
	m.eventually("the class has what it needs", "sh", "-c", "out=$("+shown+`) && echo "$out" | grep -w kernel && ! echo "$out" | grep -F 'packet filter:'`)
	m.eventually("the lease is in the kernel", "sh", "-c", "nft list set inet tarn_2049 lease | grep -E 'elements.* 2049 .*expires'")
}

// device tries what the kernel lets a unit do with a watchdog's device. Nothing is behind
// it in a test's machine: who may open it hears that.
func (m *machine) device() {
	m.t.Helper()
	m.run("mknod", "-m", "600", "/dev/watchdog", "c", "10", "130")
	open := func(files ...string) string {
		args := []string{"--wait", "--pipe", "--quiet"}
		for _, file := range files {
			for _, line := range parseUnit(m.run("cat", file))["Service"]["DeviceAllow"] {
				args = append(args, "--property=DeviceAllow="+line)
			}
		}
		out, _ := m.try("systemd-run", append(args, "--property=DevicePolicy=closed", "sh", "-c", "exec >/dev/watchdog")...)
		return out
	}
	const unit = "/usr/lib/systemd/system/tarn-deadman.service"
	if out := open(unit); !strings.Contains(out, "Operation not permitted") {
		m.t.Errorf("without the drop-in, opening a watchdog gives %q", out)
	}
	if out := open(unit, dropIns+"fence-watchdog.conf"); !strings.Contains(out, "No such device") {
		m.t.Errorf("with the drop-in, opening a watchdog gives %q", out)
	}
	m.run("rm", "/dev/watchdog")
}
