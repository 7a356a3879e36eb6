package chaos

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// settings of a run.
type settings struct {
	binary    string
	dir       string
	time      time.Duration
	seed      uint64
	first     int
	schedules int
	api       time.Duration
	storage   string
}

// suite is written once, before any test runs.
var suite settings

// The test runs in stages, each the child of the one before. The first one is what
// was called; the second is the first process of new namespaces (processes, mounts,
// network), with which all that it started ends; the third tests.
const (
	stageVariable = "TARN_CHAOS_STAGE"
	stageFirst    = "first-process"
	stageTest     = "test"
)

func TestMain(m *testing.M) {
	flag.DurationVar(&suite.time, "chaos", 2*time.Minute, "begin no new schedule after this time")
	flag.Uint64Var(&suite.seed, "seed", rand.Uint64(), "what schedules are drawn from")
	flag.IntVar(&suite.first, "first", 0, "number of the first schedule: with -seed and -schedules 1 it repeats one alone")
	flag.IntVar(&suite.schedules, "schedules", 1<<30, "how many schedules to run at the most")
	flag.DurationVar(&suite.api, "api", time.Minute, "how long 64 clients use the API while leaders are killed; the full run is 5m")
	flag.StringVar(&suite.storage, "storage", "dir", "dir, or zfs: real pools, where a copy set aside is counted and not read")
	flag.Parse()
	code, err := stage(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		code = 1
	}
	os.Exit(code)
}

func stage(m *testing.M) (int, error) {
	switch os.Getenv(stageVariable) {
	case stageFirst:
		return firstProcess()
	case stageTest:
		suite.binary, suite.dir = os.Getenv("TARN_BINARY"), os.Getenv("TARN_CHAOS_DIR")
		return m.Run(), nil
	}
	if os.Getenv("TARN_CHAOS") == "" || os.Geteuid() != 0 {
		return m.Run(), nil
	}
	return separate()
}

// needsHosts skips a test that cannot have hosts of its own here.
func needsHosts(t *testing.T) {
	t.Helper()
	if suite.dir != "" {
		return
	}
	if os.Getenv("TARN_CHAOS") == "" {
		t.Skip("skipped: takes minutes; run make chaos")
	}
	t.Skip("SKIPPED: namespaces need root")
}

// separate builds the program and runs this test again in namespaces of its own.
func separate() (code int, err error) {
	dir, err := os.MkdirTemp("", "tarn-chaos-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary := os.Getenv("TARN_BINARY")
	if binary == "" {
		binary = filepath.Join(dir, "tarn")
		build := exec.Command("go", "build", "-o", binary, "tarn/cmd/tarn")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return 0, fmt.Errorf("build tarn: %w", err)
		}
	}
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o755); err != nil {
		return 0, err
	}
	// The next stage is told of the end of this thread, not of this process.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	// The seed is drawn once.
	cmd.Args = append(cmd.Args, fmt.Sprintf("-seed=%d", suite.seed))
	cmd.Env = append(os.Environ(), stageVariable+"="+stageFirst, "TARN_BINARY="+binary, "TARN_CHAOS_DIR="+state)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// firstProcess makes the namespaces ready, starts the test in them, and buries whoever
// is left behind by a parent until the test has ended.
func firstProcess() (int, error) {
	for _, step := range []func() error{
		func() error { return unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("proc", "/proc", "proc", 0, "") },
		func() error { return unix.Mount("tmpfs", os.Getenv("TARN_CHAOS_DIR"), "tmpfs", 0, "mode=0755") },
	} {
		if err := step(); err != nil {
			return 0, fmt.Errorf("prepare namespaces: %w", err)
		}
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, stageVariable+"=") })
	env = append(env, stageVariable+"="+stageTest, "TMPDIR="+os.Getenv("TARN_CHAOS_DIR"))
	test, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{Env: env, Files: []uintptr{0, 1, 2}})
	if err != nil {
		return 0, fmt.Errorf("start the test: %w", err)
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the test: %w", err)
		case pid != test:
		case status.Exited():
			return status.ExitStatus(), nil
		default:
			return 0, fmt.Errorf("the test was ended by %s", status.Signal())
		}
	}
}
