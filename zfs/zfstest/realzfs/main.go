package realzfs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Environment of the re-executed test binary.
const (
	envDir    = "TARN_REALZFS_DIR"    // for the files of pools; its owner removes it
	envDaemon = "TARN_REALZFS_DAEMON" // the namespace has its daemon
)

// Kernel tells whether tests run on the kernel's ZFS, not on zfs-fuse.
func Kernel() bool {
	_, err := os.Stat("/dev/zfs")
	return err == nil
}

// Unavailable says why there is no real ZFS here; nil when there is.
func Unavailable() error {
	if os.Geteuid() != 0 {
		return errors.New("pools need root, and this is an ordinary user")
	}
	if Kernel() || os.Getenv(envDaemon) != "" {
		return nil
	}
	if _, err := exec.LookPath(daemon); err != nil {
		return errors.New("neither the kernel module is loaded nor zfs-fuse installed (Debian: apt-get install zfs-fuse)")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fmt.Errorf("zfs-fuse needs /dev/fuse: %w", err)
	}
	return errors.New("the package's TestMain does not call realzfs.Main")
}

const daemon = "/usr/sbin/zfs-fuse"

// Main runs the tests of a package and gives the exit status. Where zfs-fuse is needed it
// runs the test binary once more in a mount namespace.
func Main(m *testing.M) int {
	if os.Geteuid() != 0 || os.Getenv(envDaemon) != "" {
		return m.Run()
	}
	if os.Getenv(envDir) != "" {
		return inside(m)
	}
	dir, err := os.MkdirTemp("", "tarn-realzfs-")
	if err != nil {
		return failed(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // of pools that are gone
	if err := os.Setenv(envDir, dir); err != nil {
		return failed(err)
	}
	_, fuse := os.Stat("/dev/fuse")
	_, installed := os.Stat(daemon)
	if Kernel() || errors.Join(fuse, installed) != nil {
		return m.Run()
	}
	return again()
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, "realzfs:", err)
	return 1
}

// again runs this test binary in a namespace and waits for it. It ends with this
// process, whatever ends that.
func again() int {
	runtime.LockOSThread() // the death of this thread is the signal
	self, err := os.Executable()
	if err != nil {
		return failed(err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		return failed(err)
	}
	return 0
}

// inside is the second run: it starts the daemon, and ends it after the tests.
func inside(m *testing.M) int {
	runtime.LockOSThread()
	cmd, err := startDaemon(os.Getenv(envDir))
	if err != nil {
		return failed(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // no pool is left, or the tests have failed
		_ = cmd.Wait()
	}()
	if err := os.Setenv(envDaemon, fmt.Sprint(cmd.Process.Pid)); err != nil {
		return failed(err)
	}
	return m.Run()
}

// startDaemon hides the system's own zfs-fuse directories and starts a daemon with new
// ones.
func startDaemon(dir string) (*exec.Cmd, error) {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	for _, at := range []string{"/var/run/zfs", "/var/lib/zfs", "/var/lock/zfs"} {
		if err := os.MkdirAll(at, 0o755); err != nil {
			return nil, err
		}
		if err := syscall.Mount("tarn", at, "tmpfs", 0, "size=16m"); err != nil {
			return nil, fmt.Errorf("mount tmpfs at %s: %w", at, err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "zfs-fuse.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the daemon has its own
	cmd := exec.Command(daemon, "--no-daemon", "--no-kstat-mount", "-m", "64")
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 3000 {
		if _, err := os.Stat("/var/run/zfs/zfs_socket"); err == nil {
			return cmd, nil
		}
		<-tick.C
	}
	_ = cmd.Process.Kill()
	text, _ := os.ReadFile(log.Name())
	return nil, fmt.Errorf("zfs-fuse does not come up: %s: %w", text, cmd.Wait())
}
