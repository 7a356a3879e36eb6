package notify

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// manager is a service manager's end of the socket.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func listen(t *testing.T, name string) manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return manager{t, conn}
}

// hears waits for one message.
func (m manager) hears(want string) {
	m.t.Helper()
	if got := m.next(); got != want {
		m.t.Fatalf("heard %q, want %q", got, want)
	}
}

func (m manager) next() string {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := m.conn.Read(buf)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(buf[:n])
}

// drain reads what is there, and tells how many messages that was.
func (m manager) drain() (n int) {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		m.t.Fatal(err)
	}
	for {
		if _, err := m.conn.Read(make([]byte, 100)); err != nil {
			return n
		}
		n++
	}
}

var quiet = slog.New(slog.DiscardHandler)

// Nothing is said before the first proof of life, and nothing while there is none.
func TestManagerHearsWhatIsProved(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	m := listen(t, name)
	to, err := FromEnv(map[string]string{"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": strconv.Itoa(os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	const (
		dead = iota
		living
		stuck
	)
	var state, asked atomic.Int64
	alive := func(ctx context.Context) error {
		asked.Add(1)
		switch state.Load() {
		case living:
			return nil
		case stuck:
			<-ctx.Done()
			return ctx.Err()
		}
		return errors.New("no")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- to.Watch(ctx, alive, quiet) }()
	again := func() { // it is asked, and answers, at least once from now on
		for from := asked.Load(); asked.Load() < from+2; {
			select {
			case err := <-done:
				t.Fatal(err)
			case <-time.After(time.Millisecond):
			}
		}
	}
	again()
	state.Store(living)
	m.hears("READY=1")
	m.hears("WATCHDOG=1")
	m.hears("WATCHDOG=1")
	for _, s := range []int64{stuck, dead} {
		state.Store(s)
		again()
		m.drain() // of before
		again()
		if n := m.drain(); n > 0 {
			t.Errorf("state %d: the manager heard %d times of life", s, n)
		}
		state.Store(living)
		m.hears("WATCHDOG=1")
	}
	cancel()
	for m.next() != "STOPPING=1" {
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Without a manager, nothing is asked; a manager without a watchdog hears that it is up.
func TestWatchdogIsOptional(t *testing.T) {
	never := func(context.Context) error { t.Error("asked"); return nil }
	if err := (Manager{}).Watch(t.Context(), never, quiet); err != nil {
		t.Error(err)
	}
	name := "@tarn-notify-test-" + strconv.Itoa(os.Getpid())
	m := listen(t, name)
	for _, env := range []map[string]string{
		{"NOTIFY_SOCKET": name}, {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
	} {
		to, err := FromEnv(env)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- to.Watch(ctx, func(context.Context) error { return nil }, quiet) }()
		m.hears("READY=1")
		cancel()
		m.hears("STOPPING=1")
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestWrongEnvironment(t *testing.T) {
	for _, usec := range []string{"x", "0", "-1", "86400000001", "99999999999999999999"} {
		if _, err := FromEnv(map[string]string{"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": usec}); err == nil || !strings.Contains(err.Error(), "WATCHDOG_USEC") {
			t.Errorf("%s: %v", usec, err)
		}
	}
	m, err := FromEnv(map[string]string{"NOTIFY_SOCKET": filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Ready(); err == nil {
		t.Error("nobody was told, and no error")
	}
}

func FuzzFromEnv(f *testing.F) {
	f.Add("/run/x", "1000", "1")
	f.Fuzz(func(t *testing.T, socket, usec, pid string) {
		m, err := FromEnv(map[string]string{"NOTIFY_SOCKET": socket, "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid})
		if err == nil && m.watchdog < 0 || m.watchdog > 24*time.Hour {
			t.Errorf("%v", m)
		}
	})
}
