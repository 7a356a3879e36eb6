package gossip

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

var testKey = bytes.Repeat([]byte{7}, keySize)

// bubble runs a test in virtual time. memberlist's Shutdown does not wait for
// probes under way; they get the time to end.
func bubble(t *testing.T, test func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // virtual; runs last
		test(t)
	})
}

// rig is one host in a bubble.
type rig struct {
	*Ring
	addr   string
	cancel context.CancelFunc
	done   chan error

	mu     sync.Mutex
	events []Event
}

func testConfig(n *memNet, addr string, peers ...string) Config {
	return Config{
		Bind: addr, Key: testKey, Label: "cluster", Profile: ProfileLAN,
		Meta:      Meta{Role: RoleAgent, HostID: uuid.NewString(), Zone: "z"},
		Peers:     func() []string { return peers },
		Transport: n.host(addr),
		Logger:    slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func start(t *testing.T, cfg Config) *rig {
	t.Helper()
	h := &rig{addr: cfg.Bind, done: make(chan error, 1)}
	cfg.Notify = func(events []Event) {
		h.Members() // must be allowed here
		h.mu.Lock()
		defer h.mu.Unlock()
		h.events = append(h.events, events...)
	}
	ring, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.Ring = ring
	ctx, cancel := context.WithCancel(t.Context())
	h.cancel = cancel
	go func() { h.done <- ring.Run(ctx) }()
	t.Cleanup(func() { h.stop(t) })
	return h
}

// stop ends the host without a word, as a kill would.
func (h *rig) stop(t *testing.T) {
	if h.cancel == nil {
		return
	}
	h.cancel()
	h.cancel = nil
	if err := <-h.done; err != nil {
		t.Errorf("%s: %v", h.addr, err)
	}
}

func (h *rig) state(name string) State {
	for _, m := range h.Members() {
		if m.Name == name {
			return m.State
		}
	}
	return 0
}

func (h *rig) name() string { return h.cfg.Meta.HostID }

// within lets virtual time pass until cond holds.
func within(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for began := time.Now(); !cond(); time.Sleep(100 * time.Millisecond) { // virtual
		if time.Since(began) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// pass lets virtual time go by, with nothing to wait for.
func pass(d time.Duration) { time.Sleep(d) }

// ring starts n hosts that know the first one.
func ring(t *testing.T, n *memNet, count int) []*rig {
	t.Helper()
	var hosts []*rig
	for i := range count {
		hosts = append(hosts, start(t, testConfig(n, memAddr(i), memAddr(0))))
	}
	within(t, 5*time.Minute, "everyone sees everyone", func() bool {
		for _, h := range hosts {
			if h.Stats().Alive != count {
				return false
			}
		}
		return true
	})
	return hosts
}

func TestFailureIsSeenAndReturnToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newMemNet()
		hosts := ring(t, n, 5)
		gone := hosts[4]
		n.setCut(gone.addr, true)
		within(t, 5*time.Minute, "failure seen by all", func() bool {
			for _, h := range hosts[:4] {
				if h.state(gone.name()) != StateFailed {
					return false
				}
			}
			return true
		})
		// Longer than memberlist remembers the dead: only rejoining mends this.
		time.Sleep(5 * time.Minute) // virtual
		n.setCut(gone.addr, false)
		within(t, 5*time.Minute, "ring whole again", func() bool {
			return gone.Stats().Alive == 5 && hosts[0].state(gone.name()) == StateAlive
		})
	})
}

func TestHostReturnsUnderAnotherAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newMemNet()
		hosts := ring(t, n, 3)
		old := hosts[2]
		old.stop(t)
		within(t, 5*time.Minute, "failure seen", func() bool { return hosts[0].state(old.name()) == StateFailed })
		time.Sleep(31 * time.Second) // virtual; a name is kept for 30 s
		cfg := testConfig(n, memAddr(9), memAddr(0))
		cfg.Meta.HostID = old.name()
		start(t, cfg)
		within(t, 5*time.Minute, "back at the new address", func() bool {
			for _, m := range hosts[0].Members() {
				if m.Name == old.name() {
					return m.State == StateAlive && m.Addr == memAddr(9)
				}
			}
			return false
		})
	})
}

func TestTwoHostsWithOneIDRaiseAnAlarm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newMemNet()
		hosts := ring(t, n, 2)
		cfg := testConfig(n, memAddr(9), memAddr(0))
		cfg.Meta.HostID = hosts[1].name()
		start(t, cfg)
		within(t, 5*time.Minute, "conflict reported", func() bool {
			hosts[0].mu.Lock()
			defer hosts[0].mu.Unlock()
			for _, e := range hosts[0].events {
				if e.Member.Name == hosts[1].name() && e.ConflictAddr == memAddr(9) {
					return true
				}
			}
			return false
		})
		if hosts[0].Stats().Conflicts == 0 {
			t.Fatal("conflict not counted")
		}
	})
}

func TestLeaveIsNotFailure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newMemNet()
		hosts := ring(t, n, 3)
		if err := hosts[2].Leave(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		hosts[2].stop(t)
		within(t, 5*time.Minute, "departure seen", func() bool { return hosts[0].state(hosts[2].name()) == StateLeft })
		if err := hosts[2].Leave(time.Second); !errors.Is(err, ErrNotRunning) {
			t.Fatalf("leave after Run: %v", err)
		}
	})
}

func TestMetadataSpreads(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newMemNet()
		hosts := ring(t, n, 3)
		meta := hosts[2].cfg.Meta
		meta.Capabilities, meta.Pools = 42, 3
		if err := hosts[2].SetMeta(meta); err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Minute, "new metadata seen", func() bool {
			for _, m := range hosts[0].Members() {
				if m.Name == hosts[2].name() {
					return m.Meta == meta
				}
			}
			return false
		})
		meta.HostID = uuid.NewString()
		if err := hosts[2].SetMeta(meta); !errors.Is(err, ErrMeta) {
			t.Fatalf("host id changed: %v", err)
		}
	})
}

// Strangers: each must stay out of the ring, and learn nothing of it.
func TestStrangersStayOut(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"other key":     func(c *Config) { c.Key = bytes.Repeat([]byte{8}, keySize) },
		"other cluster": func(c *Config) { c.Label = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newMemNet()
				hosts := ring(t, n, 2)
				cfg := testConfig(n, memAddr(9), memAddr(0))
				spoil(&cfg)
				stranger := start(t, cfg)
				time.Sleep(time.Minute) // virtual
				if hosts[0].state(stranger.name()) != 0 || len(stranger.Members()) != 1 {
					t.Fatal("stranger is in the ring")
				}
			})
		})
	}
}

func TestAcceptKeepsOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newMemNet()
		cfg := testConfig(n, memAddr(0))
		cfg.Accept = func(m Member) error {
			if m.Addr == memAddr(9) {
				return errors.New("not its address")
			}
			return nil
		}
		strict := start(t, cfg)
		stranger := start(t, testConfig(n, memAddr(9), memAddr(0)))
		friend := start(t, testConfig(n, memAddr(1), memAddr(0)))
		within(t, 5*time.Minute, "friend is in", func() bool { return strict.state(friend.name()) == StateAlive })
		if strict.state(stranger.name()) != 0 || strict.Stats().Rejected == 0 {
			t.Fatal("refused member is in")
		}
	})
}

// The only test on the real network: UDP and TCP on loopback.
func TestLoopback(t *testing.T) {
	config := func(peers ...string) Config {
		cfg := testConfig(newMemNet(), "127.0.0.1:0", peers...)
		cfg.Transport, cfg.Profile = nil, ProfileLocal
		return cfg
	}
	first := start(t, config())
	<-first.Ready()
	second := start(t, config(first.Addr()))
	<-second.Ready()
	meet(t, first, second)
}

// Connections that are not admitted are closed unread: their member does not get in.
func TestAdmitKeepsConnectionsOut(t *testing.T) {
	var open atomic.Bool
	asked := make(chan struct{}, 1)
	config := func(peers ...string) Config {
		cfg := testConfig(newMemNet(), "127.0.0.1:0", peers...)
		cfg.Transport, cfg.Profile = nil, ProfileLocal
		cfg.Admit = func(conn net.Conn) (net.Conn, bool) {
			select {
			case asked <- struct{}{}:
			default:
			}
			return conn, open.Load()
		}
		return cfg
	}
	first := start(t, config())
	<-first.Ready()
	second := start(t, config(first.Addr()))
	<-second.Ready()
	<-asked
	if err := second.Join([]string{first.Addr()}); err == nil || first.Stats().Alive != 1 {
		t.Errorf("joined over a connection that is too much: %v", err)
	}
	open.Store(true)
	if err := second.Join([]string{first.Addr()}); err != nil {
		t.Errorf("not joined: %v", err)
	}
	meet(t, first, second)
}

// meet waits in real time until both see each other.
func meet(t *testing.T, first, second *rig) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for first.Stats().Alive != 2 || second.Stats().Alive != 2 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("first sees %v, second %v", first.Members(), second.Members())
		}
	}
}

func TestConfigRefusals(t *testing.T) {
	n := newMemNet()
	for name, spoil := range map[string]func(*Config){
		"no key":          func(c *Config) { c.Key = nil },
		"short key":       func(c *Config) { c.Key = c.Key[:16] },
		"no label":        func(c *Config) { c.Label = "" },
		"host name":       func(c *Config) { c.Bind = "localhost:1" },
		"odd port":        func(c *Config) { c.Bind = "127.0.0.1:70000" },
		"odd profile":     func(c *Config) { c.Profile = "moon" },
		"no host id":      func(c *Config) { c.Meta.HostID = "" },
		"advertise":       func(c *Config) { c.Advertise = "nowhere" },
		"negative rejoin": func(c *Config) { c.Rejoin = -1 },
	} {
		cfg := testConfig(n, memAddr(0))
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
