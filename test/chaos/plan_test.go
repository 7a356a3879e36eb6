package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// step is one fault or deed of a schedule. Whom it hits is said by role, which is
// looked up when it is due: what is planned depends on the seed alone.
type step struct {
	kind  string
	at    time.Duration // after the schedule began
	lasts time.Duration // of a fault, until it is taken back
	on    string        // a role or a node
	other string        // a second one, where the kind needs it
	much  float64       // how bad, 0 to 1
}

func (s step) String() string {
	text := fmt.Sprintf("%.1fs %s %s", s.at.Seconds(), s.kind, s.on)
	if s.other != "" {
		text += "/" + s.other
	}
	if s.lasts > 0 {
		text += fmt.Sprintf(" for %.1fs", s.lasts.Seconds())
	}
	return text
}

// Roles. An owner or copy is one of a share's, by the share's number.
const (
	roleLeader   = "leader"
	roleFollower = "follower"
	roleOwner    = "owner"
	roleCopy     = "copy"
	roleAgent    = "agent"
	roleNone     = ""
)

// kind of a fault or deed: whom it may hit, and how often it is drawn.
type kind struct {
	name   string
	roles  []string
	weight int
	// deed is done once; a fault is taken back.
	deed bool
}

func kinds() []kind {
	control := []string{roleLeader, roleFollower}
	storage := []string{roleOwner, roleCopy, roleAgent}
	return []kind{
		{name: "isolate", roles: append(control, storage...), weight: 6},
		{name: "isolate-in", roles: append(control, storage...), weight: 3},
		{name: "isolate-out", roles: append(control, storage...), weight: 3},
		{name: "cut-from-control", roles: storage, weight: 4},
		{name: "cut-replies-of-control", roles: storage, weight: 3},
		{name: "cut-pair", roles: storage, weight: 3},
		{name: "cut-pair-one-way", roles: storage, weight: 2},
		{name: "cut-leader-from-agents", roles: []string{roleNone}, weight: 2},
		{name: "no-majority", roles: []string{roleNone}, weight: 2},
		{name: "bridge", roles: control, weight: 2},
		{name: "ring", roles: []string{roleNone}, weight: 1},
		{name: "halves", roles: []string{roleNone}, weight: 2},
		{name: "no-udp", roles: []string{roleNone}, weight: 1},
		{name: "loss", roles: []string{roleNone}, weight: 3},
		{name: "delay", roles: []string{roleNone}, weight: 3},
		{name: "slow-link", roles: storage, weight: 2},
		{name: "kill", roles: append(control, storage...), weight: 8},
		{name: "kill-all-control", roles: []string{roleNone}, weight: 1},
		{name: "kill-dead-man", roles: storage, weight: 2},
		{name: "reboot", roles: storage, weight: 4},
		{name: "stop", roles: append(control, storage...), weight: 6},
		{name: "stop-dead-man", roles: storage, weight: 2},
		{name: "freeze", roles: storage, weight: 3},
		{name: "full-disk", roles: control, weight: 2},
		{name: "full-pool", roles: storage, weight: 2},
		{name: "promote", roles: []string{roleCopy}, weight: 8, deed: true},
		{name: "promote-two", roles: []string{roleNone}, weight: 2, deed: true},
		{name: "promote-again", roles: []string{roleCopy}, weight: 2, deed: true},
		{name: "promote-and-cancel", roles: []string{roleCopy}, weight: 2, deed: true},
		{name: "failover", roles: []string{roleCopy}, weight: 6, deed: true},
		{name: "snapshot", roles: []string{roleOwner}, weight: 5, deed: true},
		{name: "delete-snapshot", roles: []string{roleOwner}, weight: 2, deed: true},
		{name: "resync", roles: []string{roleCopy}, weight: 1, deed: true},
	}
}

// Bounds of a schedule: short, so that many can be run.
const (
	longest    = 7 * time.Second
	mostFaults = 4
	mostDeeds  = 3
)

// plan draws schedule number n of a seed, for a cluster with this many shares.
func plan(seed uint64, n, shares int) []step {
	chance := rand.New(rand.NewPCG(seed, uint64(n)))
	var faults, deeds []kind
	for _, k := range kinds() {
		for range k.weight {
			if k.deed {
				deeds = append(deeds, k)
			} else {
				faults = append(faults, k)
			}
		}
	}
	var out []step
	for range 1 + chance.IntN(mostFaults) {
		out = append(out, draw(chance, faults[chance.IntN(len(faults))], shares))
	}
	for range chance.IntN(mostDeeds + 1) {
		out = append(out, draw(chance, deeds[chance.IntN(len(deeds))], shares))
	}
	return out
}

func draw(chance *rand.Rand, k kind, shares int) step {
	s := step{kind: k.name, at: between(chance, 0, longest/2), much: chance.Float64()}
	if !k.deed {
		s.lasts = between(chance, longest/10, longest-s.at)
	}
	s.on = role(chance, k.roles[chance.IntN(len(k.roles))], shares)
	if k.name == "cut-pair" || k.name == "cut-pair-one-way" {
		s.other = role(chance, roleAgent, shares)
	}
	return s
}

// role adds the number that a role needs.
func role(chance *rand.Rand, name string, shares int) string {
	switch name {
	case roleOwner, roleCopy:
		return fmt.Sprintf("%s%d", name, chance.IntN(shares))
	case roleAgent:
		return fmt.Sprintf("%s%d", name, 1+chance.IntN(agents))
	case roleFollower:
		return fmt.Sprintf("%s%d", name, chance.IntN(2))
	}
	return name
}

func between(chance *rand.Rand, least, most time.Duration) time.Duration {
	return (least + time.Duration(chance.Int64N(int64(most-least)))).Round(100 * time.Millisecond)
}

func describe(steps []step) string {
	lines := make([]string, len(steps))
	for i, s := range steps {
		lines[i] = s.String()
	}
	return strings.Join(lines, "; ")
}
