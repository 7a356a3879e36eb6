package lease

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// softdog loads the kernel's own watchdog, told to say in the kernel's log that it would
// reset the machine instead of doing so.
func softdog(t *testing.T) WatchdogConfig {
	t.Helper()
	if os.Getenv("TARN_VM") == "" {
		t.Skip("loads a watchdog's driver: runs in the virtual machine of test/vm (make test-kernel)")
	}
	if out, err := exec.Command("modprobe", "softdog", "soft_noboot=1").CombinedOutput(); err != nil {
		t.Fatalf("modprobe softdog: %v: %s", err, out)
	}
	c := WatchdogConfig{Device: "/dev/watchdog0", Timeout: 4 * time.Second}
	until(t, "there", func() bool { _, err := os.Stat(c.Device); return err == nil })
	return c
}

// dogState is active or inactive, by the kernel's word.
func dogState(t *testing.T) string {
	t.Helper()
	state, err := os.ReadFile("/sys/class/watchdog/watchdog0/state")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(state))
}

// bites are the times since the machine's start at which the watchdog would have reset it.
func bites(t *testing.T) (at []time.Duration) {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	record := make([]byte, 8<<10)
	for {
		n, err := unix.Read(fd, record) // a record at a time
		switch {
		case errors.Is(err, unix.EPIPE): // some were overwritten
			continue
		case errors.Is(err, unix.EAGAIN):
			return at
		case err != nil:
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(bytes.NewReader(record[:n])).ReadString('\n')
		if !strings.Contains(line, "softdog: Triggered") {
			continue
		}
		fields := strings.Split(line, ",") // priority, number, microseconds
		us, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		at = append(at, time.Duration(us)*time.Microsecond)
	}
}

// TestWatchdogsDriver: what a right to write arms is a real driver. It is called off when
// the right has ended, and resets the host before that when nobody is left who could end it.
func TestWatchdogsDriver(t *testing.T) {
	config := softdog(t)
	if err := checkDog(config); err != nil {
		t.Fatal(err)
	}
	t.Run("called off", func(t *testing.T) {
		dir := t.TempDir()
		if err := Configure(dir, Backing{Watchdog: &config}); err != nil {
			t.Fatal(err)
		}
		pool, target := mountedTarget(t)
		agent := startAgent(t, dir)
		deadline := agent.arm(target, 10*time.Second)
		until(t, "armed", func() bool { return dogState(t) == "active" })
		agent.signal(syscall.SIGKILL)
		if at := fencedAt(t, pool); at > deadline {
			t.Errorf("fenced %s after the end", at-deadline)
		}
		until(t, "called off", func() bool { return dogState(t) == "inactive" })
		if at := bites(t); len(at) > 0 {
			t.Errorf("it bit at %v", at)
		}
	})
	t.Run("bites", func(t *testing.T) {
		dir := t.TempDir()
		if err := Configure(dir, Backing{Watchdog: &config}); err != nil {
			t.Fatal(err)
		}
		pool, target := mountedTarget(t)
		agent := startAgent(t, dir)
		deadline := agent.arm(target, 15*time.Second)
		until(t, "armed", func() bool { return dogState(t) == "active" })
		helper := theHelper(t, dir, agent)
		agent.signal(syscall.SIGKILL)
		if err := syscall.Kill(helper, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = syscall.Kill(helper, syscall.SIGKILL)
			until(t, "called off", func() bool { // by the next who has it, as after a restart
				d, err := openDog(config)
				return err == nil && d.Release(true) == nil
			})
		}()
		until(t, "bitten", func() bool { return len(bites(t)) > 0 })
		if at := bites(t); at[0] > deadline {
			t.Errorf("the host would have been reset %s after the end of the right", at[0]-deadline)
		}
		if _, err := os.Stat(pool + "/mnt/pool/a"); err != nil {
			t.Errorf("somebody else fenced it: %v", err)
		}
	})
}
