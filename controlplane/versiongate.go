package controlplane

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn/controlplane/consensus"
	raftv1 "tarn/proto/tarn/raft/v1"
	"tarn/raftfsm"
)

const (
	// gateWait is how long a command that needs a higher version waits for the first
	// answer of the members: a new cluster is raised within moments of its founding.
	gateWait = 5 * time.Second
	// gatePause between two rounds of asking while somebody is too old or silent.
	gatePause  = 5 * time.Second
	askVersion = 3 * time.Second
)

// gate lets commands through that every member can apply. The leader asks the members
// and raises the cluster's version when the last of them has been upgraded.
type gate struct {
	state   interface{ View() *raftfsm.View }
	servers func() ([]consensus.Server, error)
	// ask tells which version the member can apply.
	ask func(ctx context.Context, addr string) (uint32, error)
	// self is this node's id, and newest what it can apply.
	self   string
	newest uint32

	mu     sync.Mutex
	asked  chan struct{} // closed after the first round of this leadership
	behind []string      // who keeps the version down, sentences
}

func newGate(state interface{ View() *raftfsm.View }) *gate {
	return &gate{state: state, newest: raftfsm.CommandVersion, asked: make(chan struct{})}
}

// pass returns once the cluster can apply the command, or why it cannot.
func (g *gate) pass(ctx context.Context, cmd *raftv1.Command) error {
	needs := raftfsm.VersionOf(cmd)
	cmd.Version = needs
	if _, raises := cmd.GetVerb().(*raftv1.Command_SetCommandVersion); raises || needs <= g.state.View().CommandVersion() {
		return nil
	}
	g.awaitRound(ctx)
	have := g.state.View().CommandVersion()
	if needs <= have {
		return nil
	}
	why := "the members were not asked yet"
	if behind := g.Behind(); len(behind) > 0 {
		why = strings.Join(behind, "; ")
	}
	return &raftfsm.Error{Code: raftfsm.FailedPrecondition, Message: fmt.Sprintf(
		"this needs command version %d and the cluster is at %d until every control-plane node can apply more: %s; upgrade these nodes and repeat", needs, have, why)}
}

func (g *gate) awaitRound(ctx context.Context) {
	g.mu.Lock()
	asked := g.asked
	g.mu.Unlock()
	timer := time.NewTimer(gateWait)
	defer timer.Stop()
	select {
	case <-asked:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Behind says which members keep the version down, as far as the leader knows.
func (g *gate) Behind() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.behind)
}

// run raises the version during one leadership, and ends when nothing is left to do.
func (g *gate) run(ctx context.Context, propose func(context.Context, *raftv1.Command) error) error {
	g.begin()
	for {
		if err := g.round(ctx, propose); err != nil {
			return err
		}
		if g.state.View().CommandVersion() >= g.newest {
			return nil
		}
		timer := time.NewTimer(gatePause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

func (g *gate) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.behind = nil
	select {
	case <-g.asked:
		g.asked = make(chan struct{})
	default:
	}
}

// round asks all members once and raises the version to what they all can apply.
func (g *gate) round(ctx context.Context, propose func(context.Context, *raftv1.Command) error) error {
	common, behind, err := g.common(ctx)
	if err != nil {
		return err
	}
	if have := g.state.View().CommandVersion(); common > have {
		err = propose(ctx, &raftv1.Command{Verb: &raftv1.Command_SetCommandVersion{
			SetCommandVersion: &raftv1.SetCommandVersion{Version: common},
		}})
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.behind = behind
	select {
	case <-g.asked:
	default:
		close(g.asked)
	}
	return err
}

// common returns the version that all members can apply, at most this node's own,
// and who cannot apply that. A member that does not answer could be of any version.
func (g *gate) common(ctx context.Context) (uint32, []string, error) {
	servers, err := g.servers()
	if err != nil {
		return 0, nil, err
	}
	common := g.newest
	var behind []string
	for _, s := range servers {
		if s.ID == g.self {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, askVersion)
		version, err := g.ask(limited, s.Addr)
		cancel()
		switch {
		case err != nil:
			version = 0
			behind = append(behind, fmt.Sprintf("node %s at %s does not answer", s.ID, s.Addr))
		case version < g.newest:
			behind = append(behind, fmt.Sprintf("node %s at %s runs a tarn of command version %d", s.ID, s.Addr, version))
		}
		common = min(common, version)
	}
	return common, behind, nil
}
