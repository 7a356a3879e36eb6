package chaos

import (
	"context"
	"slices"
	"strings"
	"time"

	"tarn/cmd/tarn/dev"
	"tarn/test/chaos/fabric"
)

func isControl(host string) bool { return strings.HasPrefix(host, "control") }
func isAgent(host string) bool   { return strings.HasPrefix(host, "agent") }

// networkFault tells whether a step is one of the network, and how to begin it. This
// test itself is never cut off: its clients reach whoever would still serve them.
func (r *run) networkFault(ctx context.Context, s step) (func() (undo, error), bool) {
	shapes := map[string]func(host, other string) func(from, to string) bool{
		"isolate": func(host, _ string) func(string, string) bool {
			return func(from, to string) bool { return from == host || to == host }
		},
		"isolate-in": func(host, _ string) func(string, string) bool {
			return func(_, to string) bool { return to == host }
		},
		"isolate-out": func(host, _ string) func(string, string) bool {
			return func(from, _ string) bool { return from == host }
		},
		"cut-from-control": func(host, _ string) func(string, string) bool {
			return func(from, to string) bool { return from == host && isControl(to) || to == host && isControl(from) }
		},
		"cut-replies-of-control": func(host, _ string) func(string, string) bool {
			return func(from, to string) bool { return to == host && isControl(from) }
		},
		"cut-pair": func(host, other string) func(string, string) bool {
			return func(from, to string) bool { return from == host && to == other || from == other && to == host }
		},
		"cut-pair-one-way": func(host, other string) func(string, string) bool {
			return func(from, to string) bool { return from == host && to == other }
		},
		"bridge":                 func(host, _ string) func(string, string) bool { return r.bridge(host) },
		"ring":                   func(_, _ string) func(string, string) bool { return r.ring() },
		"halves":                 func(_, _ string) func(string, string) bool { return r.halves() },
		"no-majority":            func(_, _ string) func(string, string) bool { return noMajority },
		"cut-leader-from-agents": func(host, _ string) func(string, string) bool { return cutFromAgents(host) },
	}
	if shape, ok := shapes[s.kind]; ok {
		return func() (undo, error) { return r.cut(ctx, s, shape) }, true
	}
	switch s.kind {
	case "no-udp":
		return r.everywhere(fabric.Link{CutUDP: true}), true
	case "loss":
		return r.everywhere(fabric.Link{Loss: mostLoss * s.much}), true
	case "delay":
		d := time.Duration(float64(mostDelay) * s.much)
		return r.everywhere(fabric.Link{Delay: d, Jitter: d / 4}), true
	case "slow-link":
		return func() (undo, error) { return r.slow(ctx, s) }, true
	}
	return nil, false
}

func (r *run) cut(ctx context.Context, s step, shape func(host, other string) func(from, to string) bool) (undo, error) {
	on, other := s.on, s.other
	if s.kind == "cut-leader-from-agents" {
		on = roleLeader
	}
	var hosts [2]string
	for i, role := range []string{on, other} {
		if role == "" {
			continue
		}
		host, err := r.resolve(ctx, role)
		if err != nil {
			return nil, err
		}
		hosts[i] = host
	}
	if hosts[0] != "" && hosts[0] == hosts[1] {
		return nil, errNobody
	}
	severed := shape(hosts[0], hosts[1])
	return r.addCut(func(from, to string) fabric.Link {
		return fabric.Link{Cut: from != fabric.Home && to != fabric.Home && severed(from, to)}
	}), nil
}

// bridge leaves a host that sees both sides of a partition, which do not see each other.
func (r *run) bridge(host string) func(from, to string) bool {
	side := map[string]int{}
	for i, n := range r.Nodes() {
		side[n.Name] = i % 2
	}
	return func(from, to string) bool { return from != host && to != host && side[from] != side[to] }
}

// ring leaves each host its two neighbours.
func (r *run) ring() func(from, to string) bool {
	var names []string
	for i := range max(len(r.names(dev.Control)), len(r.names(dev.Agent))) {
		for _, kind := range []dev.Kind{dev.Control, dev.Agent} {
			if all := r.names(kind); i < len(all) {
				names = append(names, all[i])
			}
		}
	}
	return func(from, to string) bool {
		d := (slices.Index(names, from) - slices.Index(names, to) + len(names)) % len(names)
		return d > 1 && d < len(names)-1
	}
}

// halves puts one control node and the first agents on one side.
func (r *run) halves() func(from, to string) bool {
	side := map[string]bool{}
	for i, n := range r.names(dev.Control) {
		side[n] = i == 0
	}
	for i, n := range r.names(dev.Agent) {
		side[n] = i < 2
	}
	return func(from, to string) bool { return side[from] != side[to] }
}

func noMajority(from, to string) bool { return isControl(from) && isControl(to) }

func cutFromAgents(host string) func(from, to string) bool {
	return func(from, to string) bool { return from == host && isAgent(to) || to == host && isAgent(from) }
}

// everywhere spoils all links between nodes.
func (r *run) everywhere(l fabric.Link) func() (undo, error) {
	return func() (undo, error) {
		return r.addCut(func(from, to string) fabric.Link {
			if from == fabric.Home || to == fabric.Home {
				return fabric.Link{}
			}
			return l
		}), nil
	}
}

func (r *run) slow(ctx context.Context, s step) (undo, error) {
	const least, more = 8_000, 200_000 // bytes a second
	host, err := r.resolve(ctx, s.on)
	if err != nil {
		return nil, err
	}
	l := fabric.Link{BytesPerSecond: least + int(more*s.much)}
	return r.addCut(func(from, to string) fabric.Link {
		if (from == host || to == host) && from != fabric.Home && to != fabric.Home {
			return l
		}
		return fabric.Link{}
	}), nil
}
