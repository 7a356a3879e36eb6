package deploy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// machine is a fresh root: this machine's files under an overlay that takes every change,
// with its own mounts, processes and network. All of it ends with the test.
type machine struct {
	t      *testing.T
	holder string // pid of its first process
	root   string
	upper  string
}

// boot is what the first process does. It tells its pid, as seen from outside, when all is
// in place. /run and /tmp are empty: nothing of this machine's daemons is reachable.
const boot = `set -e
read -r pid _ </proc/self/stat
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t tmpfs tmpfs "$1/root/run"
mount -t tmpfs tmpfs "$1/root/tmp"
mount --rbind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
mount --rbind /sys "$1/root/sys"
ip link set lo up
echo "pid $pid"
exec sleep infinity`

func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: a root of its own needs root")
	}
	needs(t, "unshare", "nsenter", "ip", "dpkg", "setpriv", "systemd-sysusers", "systemd-tmpfiles")
	if exec.Command("dpkg", "-s", "tarn").Run() == nil {
		t.Skip("skipped: this machine has the package tarn: its root is not fresh")
	}
	dir := t.TempDir()
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", boot, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, ok := strings.CutPrefix(strings.TrimSpace(line), "pid ")
	if !ok {
		_ = cmd.Wait()
		t.Skipf("skipped: this machine cannot make a root of its own: %s", strings.TrimSpace(errs.String()))
	}
	return &machine{t: t, holder: pid, root: filepath.Join(dir, "root"), upper: filepath.Join(dir, "upper")}
}

// command builds a process inside the machine.
func (m *machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	inside := []string{"--target", m.holder, "--mount", "--net", "--pid", "chroot", m.root,
		"/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(inside, args...)...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// try runs a program inside to its end.
func (m *machine) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // cleanups run programs too
	defer cancel()
	out, err := m.command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (m *machine) run(name string, args ...string) string {
	m.t.Helper()
	out, err := m.try(name, args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// write makes a file inside, with its directories.
func (m *machine) write(path, text string) {
	m.t.Helper()
	m.run("sh", "-c", `mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"`, "sh", path, text)
}

// eventually repeats a program inside until it succeeds.
func (m *machine) eventually(what, name string, args ...string) string {
	m.t.Helper()
	tick, limit := time.NewTicker(100*time.Millisecond), time.NewTimer(90*time.Second)
	defer tick.Stop()
	defer limit.Stop()
	for {
		out, err := m.try(name, args...)
		if err == nil {
			return out
		}
		select {
		case <-tick.C:
		case <-limit.C:
			m.t.Fatalf("%s: not within 90 s: %v", what, err)
		}
	}
}

// unit is the [Service] section of an installed unit; a key that is set again adds.
func (m *machine) unit(name string) map[string][]string {
	m.t.Helper()
	return parseUnit(m.run("cat", "/usr/lib/systemd/system/"+name))["Service"]
}

// parseUnit reads systemd.syntax(7) as far as our units use it.
func parseUnit(text string) map[string]map[string][]string {
	sections, section := map[string]map[string][]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(name, "]")
			sections[section] = map[string][]string{}
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && line[0] != '#' {
			sections[section][key] = append(sections[section][key], value)
		}
	}
	return sections
}

// start does by hand what systemd does with a unit: its command, as its user, without
// new privileges. The function that it returns ends the process as systemd would.
func (m *machine) start(name string) (stop func()) {
	m.t.Helper()
	service := m.unit(name)
	args := []string{"--no-new-privs"}
	if user := service["User"]; len(user) == 1 {
		args = append(args, "--reuid="+user[0], "--regid="+service["Group"][0], "--init-groups", "--inh-caps=-all", "--bounding-set=-all")
	}
	pidFile := "/run/" + name + ".pid"
	args = append([]string{"-c", `echo $$ >"$1"; shift; exec setpriv "$@"`, "sh", pidFile}, args...)
	cmd := m.command(context.Background(), "sh", append(args, strings.Fields(service["ExecStart"][0])...)...)
	log := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = sync.OnceFunc(func() {
		if _, err := m.try("sh", "-c", `kill -TERM "$(cat "$1")"`, "sh", pidFile); err != nil {
			m.t.Error(err)
		}
		select {
		case err := <-ended:
			if err != nil {
				m.t.Errorf("%s ended with %v", name, err)
			}
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			m.t.Errorf("%s does not end", name)
		}
		if m.t.Failed() {
			m.t.Logf("--- %s\n%s", name, log.String())
		}
	})
	m.t.Cleanup(stop)
	return stop
}
