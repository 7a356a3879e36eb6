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
}

// What a machine's first process is.
const (
	idle         = "idle"
	underSystemd = "systemd"
)

// boot is what the first process does. It tells its pid, as seen from outside, when all is
// in place. /run and /tmp are empty: nothing of this machine's daemons is reachable.
const boot = `set -e
read -r pid _ </proc/self/stat
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t tmpfs tmpfs "$1/root/run"
mount -t tmpfs tmpfs "$1/root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$1/root/dev"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229; do
	IFS=: read -r name major minor <<END
$node
END
	mknod -m 666 "$1/root/dev/$name" c "$major" "$minor"
done
mkdir "$1/root/dev/shm" "$1/root/dev/pts" "$1/root/dev/mqueue" "$1/root/dev/hugepages"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/root/dev/pts"
ln -s pts/ptmx "$1/root/dev/ptmx"
mount -t proc proc "$1/root/proc"
mount --bind "$1/root/proc/sys" "$1/root/proc/sys"
mount -o remount,ro,bind "$1/root/proc/sys"
ip link set lo up
case $2 in
idle)
	mount -t sysfs -o ro sysfs "$1/root/sys"
	echo "pid $pid"
	exec sleep infinity ;;
systemd)
	ln -sf /dev/null "$1/root/etc/systemd/system/zfs-fuse.service"
	mount -t sysfs -o ro sysfs "$1/root/sys"
	mount -t cgroup2 cgroup2 "$1/root/sys/fs/cgroup"
	cd "$1/root"
	mkdir old
	pivot_root . old
	umount -l /old
	# As a systemd does that is not told of a container: what is unmounted here is unmounted
	# in the units' own name spaces, too.
	mount --make-rshared /
	echo "pid $pid"
	exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target --log-target=console --show-status=no </dev/null ;;
esac`

// join puts the machine's first process into a group of its own, so that what its systemd
// does with groups stays there.
const join = `set -e
group=$(while read -r _ dir kind _; do [ "$kind" != cgroup2 ] || { echo "$dir"; break; }; done </proc/mounts)
if [ -n "$group" ] && mkdir "$group/$3" 2>/dev/null; then echo $$ >"$group/$3/cgroup.procs"; fi
exec unshare --mount --net --pid --cgroup --uts --ipc --fork --kill-child sh -c "$0" sh "$1" "$2"`

// leave removes the group with all below it.
const leave = `while read -r _ dir kind _; do
	[ "$kind" != cgroup2 ] || [ ! -d "$dir/$1" ] || { find "$dir/$1" -depth -type d -exec rmdir {} + 2>/dev/null; [ ! -d "$dir/$1" ] || exit 1; }
done </proc/mounts`

func newMachine(t *testing.T, first string) *machine {
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
	group := fmt.Sprintf("tarn-test-%d", os.Getpid())
	cmd := exec.Command("sh", "-c", join, boot, dir, first, group)
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
		// The group can be removed when the last of its processes has ended.
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range 100 {
			if exec.Command("sh", "-c", leave, "sh", group).Run() == nil {
				return
			}
			<-tick.C
		}
		t.Logf("left behind: the empty group %s", group)
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, ok := strings.CutPrefix(strings.TrimSpace(line), "pid ")
	if !ok {
		_ = cmd.Wait()
		t.Skipf("skipped: this machine cannot make a root of its own: %s", strings.TrimSpace(errs.String()))
	}
	m := &machine{t: t, holder: pid, root: filepath.Join(dir, "root")}
	t.Cleanup(m.journal)
	if first == underSystemd {
		m.root = "/" // it has pivoted
	}
	return m
}

// journal shows after a failure what systemd and the units said.
func (m *machine) journal() {
	if m.t.Failed() && m.root == "/" {
		out, _ := m.try("sh", "-c", "systemctl show -p Id,Result,ExecMainCode,ExecMainStatus,StatusErrno 'tarn-*.service'; systemctl status --no-pager -n 15 'tarn-*.service'; journalctl --no-pager -n 60")
		m.t.Logf("--- journal\n%s", out)
	}
}

// command builds a process inside the machine.
func (m *machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	inside := []string{"--target", m.holder, "--mount", "--net", "--pid", "--cgroup", "--uts", "--ipc", "chroot", m.root,
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
	tick, limit := time.NewTicker(100*time.Millisecond), time.NewTimer(3*time.Minute)
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
			m.t.Fatalf("%s: not within 3 minutes: %v", what, err)
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
