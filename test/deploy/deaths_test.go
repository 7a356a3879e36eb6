package deploy

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// show is a property of a unit.
func (m *machine) show(unit, property string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("systemctl", "show", "--property", property, "--value", unit))
}

// when is a time of a unit's, since the machine's start.
func (m *machine) when(unit, property string) time.Duration {
	m.t.Helper()
	usec, err := strconv.ParseInt(m.show(unit, property), 10, 64)
	if err != nil {
		m.t.Fatalf("%s of %s: %v", property, unit, err)
	}
	return time.Duration(usec) * time.Microsecond
}

// processes are those of a unit besides its main one, by their command lines.
func (m *machine) processes(unit string) []string {
	m.t.Helper()
	lines := strings.Split(m.run("sh", "-c", `for p in $(cat "/sys/fs/cgroup$1/cgroup.procs"); do
		[ "$p" = "$2" ] || echo "$p $(tr '\0' ' ' <"/proc/$p/cmdline")"
	done 2>/dev/null || true`, "sh", m.show(unit, "ControlGroup"), m.show(unit, "MainPID")), "\n")
	return slices.DeleteFunc(lines, func(l string) bool { return len(strings.Fields(l)) < 2 })
}

// deadman is the pid of a host's dead-man, once there is exactly one.
func (m *machine) deadman(n string) string {
	m.t.Helper()
	var pid string
	m.until("one dead-man of host "+n, func() bool {
		all := m.processes("tarn-deadman" + suffix(n) + ".service")
		if len(all) == 1 {
			pid, _, _ = strings.Cut(all[0], " ")
		}
		return len(all) == 1 && strings.Contains(all[0], "deadman")
	})
	return pid
}

// until waits for a condition.
func (m *machine) until(what string, ok func() bool) {
	m.t.Helper()
	tick, limit := time.NewTicker(100*time.Millisecond), time.NewTimer(3*time.Minute)
	defer tick.Stop()
	defer limit.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			m.t.Fatalf("%s: not within 3 minutes", what)
		}
	}
}

// kill ends the main process of a unit, and waits for systemd to have it up again.
func (m *machine) kill(unit string) {
	m.t.Helper()
	before := m.show(unit, "MainPID")
	m.run("kill", "-KILL", before)
	m.comesBack(unit, before)
}

func (m *machine) comesBack(unit, before string) {
	m.t.Helper()
	m.until(unit+" is up again", func() bool {
		now := m.show(unit, "MainPID")
		return now != before && now != "0" && m.show(unit, "ActiveState") == "active"
	})
}

// writes tells whether the share takes a write on host n: the share, and not the directory
// that it is mounted on.
func (m *machine) writes(n string) bool {
	_, err := m.try("sh", "-c", `cd /srv/tank"$1"/* && test -f f && date >probe && sync probe`, "sh", n)
	return err == nil
}

// leaseWait is what the control plane waits, by default, before it takes a silent host's
// last lease for over.
const leaseWait = 15 * time.Second

// deaths kills each of the daemons of the host that owns the share: all come back, who
// may write goes on as long as there is a lease and no longer, and nothing is left over.
func (m *machine) deaths() {
	m.t.Helper()
	const n = "2"
	agent, helper, deadman := "tarn-agent"+n+".service", "tarn-helper"+n+".service", "tarn-deadman"+n+".service"
	asked := m.show(agent, "MainPID")
	m.kill(helper)
	m.kill(deadman) // its dead-man lives on, and hands over to the next
	m.run("kill", "-KILL", m.deadman(n))
	m.deadman(n)
	if now := m.show(agent, "MainPID"); now != asked {
		m.t.Errorf("the agent did not outlive its helpers: it was process %s and is %s", asked, now)
	}
	m.tarn("snapshot", "create", "web", "after-the-helpers", "--wait")

	m.proves("tarn-controlplane.service")
	m.noLease(n, func() { m.kill(agent) })
	m.noLease(n, func() {
		asked = m.show(agent, "MainPID")
		m.run("kill", "-STOP", asked)
	})
	m.comesBack(agent, asked) // from what systemd's watchdog did to it
	if said := m.run("journalctl", "--no-pager", "-u", agent); !strings.Contains(said, "SIGABRT: abort") {
		m.t.Errorf("the stopped agent was not ended by its watchdog:\n%s", said)
	}
	m.until("the share takes writes after its agent has died", func() bool { return m.writes(n) })
	m.nothingLeft()
}

// noLease lets the control plane be away while something happens to the agent: the last
// write is taken before the lease that came last can have ended. Its share stays refused
// until there is a control plane again.
func (m *machine) noLease(n string, happens func()) {
	m.t.Helper()
	m.until("the share takes writes", func() bool { return m.writes(n) })
	m.run("systemctl", "stop", "tarn-controlplane.service")
	ended := time.Now()
	happens()
	last := ended
	m.until("no write is taken without a lease", func() bool {
		began := time.Now()
		if m.writes(n) {
			last = began
			return false
		}
		return true
	})
	if after := last.Sub(ended); after > leaseWait {
		m.t.Errorf("a write was taken %s after the last lease can have begun", after)
	}
	m.run("systemctl", "start", "tarn-controlplane.service")
}

// nothingLeft looks at both hosts: one process each but for the dead-man's, one mount of
// the share each, and an agent that nothing happened to.
func (m *machine) nothingLeft() {
	m.t.Helper()
	for _, n := range []string{"1", "2"} {
		m.deadman(n)
		for _, unit := range []string{"tarn-agent", "tarn-helper"} {
			m.until(unit+" of host "+n+" has left nothing running", func() bool { return len(m.processes(unit+suffix(n)+".service")) == 0 })
		}
		m.until("one mount on host "+n, func() bool {
			return strings.Count(m.run("cat", "/proc/mounts"), " /srv/tank"+n+"/") == 1
		})
	}
	m.proves("tarn-agent.service")
}

// proves waits until a daemon has told systemd once that it lives, besides that it is up.
func (m *machine) proves(unit string) {
	m.t.Helper()
	m.until(unit+" proves that it lives", func() bool {
		return m.when(unit, "WatchdogTimestampMonotonic") > m.when(unit, "ActiveEnterTimestampMonotonic")+time.Second
	})
}
