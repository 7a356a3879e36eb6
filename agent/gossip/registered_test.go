package gossip

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// directory is what a control plane tells its hosts of each other.
type directory struct {
	mu    sync.Mutex
	known map[string]Registered
}

func (d *directory) put(name, addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil {
		d.known = map[string]Registered{}
	}
	d.known[name] = Registered{Role: RoleAgent, Addr: addr}
}

func (d *directory) remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, name)
}

func (d *directory) accept(m Member) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.known[m.Name]
	if !ok {
		return ErrStranger
	}
	return r.Confirm(m)
}

func (d *directory) addrs() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, r := range d.known {
		out = append(out, r.Addr)
	}
	return out
}

func TestConfirm(t *testing.T) {
	m := Member{Name: "n", Addr: "10.0.0.1:7000", Meta: Meta{Role: RoleAgent}}
	for _, test := range []struct {
		r    Registered
		want error
	}{
		{Registered{RoleAgent, ""}, nil},
		{Registered{RoleAgent, "10.0.0.1:7000"}, nil},
		{Registered{RoleAgent, "[::ffff:10.0.0.1]:7000"}, nil},
		{Registered{RoleAgent, "10.0.0.1:0"}, nil},
		{Registered{RoleAgent, "10.0.0.1:7001"}, ErrAddress},
		{Registered{RoleAgent, "10.0.0.2:7000"}, ErrAddress},
		{Registered{RoleAgent, "10.0.0.2:0"}, ErrAddress},
		{Registered{RoleAgent, "rubbish"}, ErrAddress},
		{Registered{RoleControl, "10.0.0.1:7000"}, ErrStranger},
	} {
		if err := test.r.Confirm(m); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v, want %v", test.r, err, test.want)
		}
	}
}

// Who has the key but is not registered, or has somebody's name at another address, is
// kept out and told of; who has been removed is not listed any more.
func TestOnlyTheRegisteredAreIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newMemNet()
		d := &directory{}
		config := func(addr string) Config {
			cfg := testConfig(n, addr, memAddr(0))
			cfg.Accept = d.accept
			return cfg
		}
		one, two, four := config(memAddr(0)), config(memAddr(1)), config(memAddr(3))
		d.put(one.Meta.HostID, memAddr(0))
		d.put(two.Meta.HostID, memAddr(1))
		d.put(four.Meta.HostID, memAddr(3))
		var mu sync.Mutex
		refused := map[string]error{}
		one.Refused = func(m Member, err error) {
			mu.Lock()
			defer mu.Unlock()
			refused[m.Addr] = err
		}
		a, b, d4 := start(t, one), start(t, two), start(t, four)
		stranger, twin := testConfig(n, memAddr(8), memAddr(0)), testConfig(n, memAddr(9), memAddr(0))
		twin.Meta.HostID = two.Meta.HostID
		start(t, stranger)
		second := start(t, twin)
		within(t, 5*time.Minute, "the ring of the registered", func() bool { return a.Stats().Alive == 3 && b.Stats().Alive == 3 && d4.Stats().Alive == 3 })
		pass(2 * time.Minute)
		if a.state(stranger.Meta.HostID) != 0 || b.state(stranger.Meta.HostID) != 0 {
			t.Error("a stranger is in the ring")
		}
		for _, m := range a.Members() {
			if m.Name == two.Meta.HostID && (m.Addr != memAddr(1) || m.State != StateAlive) {
				t.Errorf("the duplicate took the place of %+v", m)
			}
		}
		second.stop(t)
		a.mu.Lock()
		told := map[string]error{}
		for _, e := range a.events {
			if e.Refused != nil {
				told[e.Member.Name] = e.Refused
			}
		}
		a.mu.Unlock()
		if len(told) != 2 || told[stranger.Meta.HostID] == nil || told[twin.Meta.HostID] == nil || a.Stats().Rejected < 2 {
			t.Errorf("told %v, %d refusals", told, a.Stats().Rejected)
		}
		mu.Lock()
		defer mu.Unlock()
		if !errors.Is(refused[memAddr(8)], ErrStranger) || !errors.Is(refused[memAddr(9)], ErrAddress) {
			t.Errorf("refusals %v", refused)
		}
		d.remove(four.Meta.HostID)
		if a.state(four.Meta.HostID) != 0 || a.Stats().Alive != 2 {
			t.Error("a host that was removed is still listed")
		}
	})
}

// Halves that have forgotten each other, and whose configured peers are gone, find each
// other again by the control plane's list.
func TestHalvesMeetByTheControlPlanesList(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newMemNet()
		d := &directory{}
		var hosts []*rig
		for i := range 5 {
			cfg := testConfig(n, memAddr(i))
			cfg.Accept, cfg.Peers = d.accept, func() []string { return append([]string{memAddr(0)}, d.addrs()...) }
			d.put(cfg.Meta.HostID, memAddr(i))
			hosts = append(hosts, start(t, cfg))
		}
		all := func(want int, who ...*rig) bool {
			for _, h := range who {
				if h.Stats().Alive != want {
					return false
				}
			}
			return true
		}
		within(t, 5*time.Minute, "one ring", func() bool { return all(5, hosts...) })
		hosts[0].stop(t) // the only one that the configuration names
		n.split(memAddr(3), memAddr(4))
		within(t, 5*time.Minute, "two halves", func() bool { return all(2, hosts[1:]...) })
		pass(3 * time.Minute) // memberlist has long forgotten the others
		n.split()
		within(t, 5*time.Minute, "one ring again", func() bool { return all(4, hosts[1:]...) })
	})
}
