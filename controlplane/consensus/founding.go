package consensus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Peers reaches the HandleJoin of another control-plane node, over mTLS. Calls
// are not repeated by the implementation: this package does that.
type Peers interface {
	Join(ctx context.Context, addr string, req JoinRequest) (JoinAnswer, error)
}

// JoinRequest is what a server without a cluster asks of another.
type JoinRequest struct {
	Server Server // who asks; Voter is ignored
	// Known are the other servers without a cluster that it has heard of.
	Known []Server
	// Founders, if not empty, asks for consent to found a cluster of exactly these.
	Founders []Server
	// StillMember asks only whether the server is a member, and changes nothing.
	StillMember bool
}

// JoinStatus is how far a JoinRequest got.
type JoinStatus int

// The answers to a JoinRequest.
const (
	JoinDone      JoinStatus = iota + 1 // the server is a member now
	JoinElsewhere                       // there is a cluster; ask LeaderAddr if it is not empty
	JoinNoCluster                       // the answering server has none either
	JoinRemoved                         // by the leader: the server, which asked if it still is a member, is none
)

// JoinAnswer answers a JoinRequest.
type JoinAnswer struct {
	Status     JoinStatus
	LeaderAddr string
	Known      []Server // servers without a cluster, the answering one included
	Consent    bool     // to Founders
}

// joinCall bounds one call to another node.
const joinCall = 5 * time.Second

// founding is what a server without a cluster knows of others like it.
type founding struct {
	mu    sync.Mutex
	known map[string]Server
}

func (f *founding) learn(servers ...Server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range servers {
		if s.ID != "" && s.Addr != "" && len(f.known) < 64 {
			f.known[s.ID] = Server{ID: s.ID, Addr: s.Addr}
		}
	}
}

// list returns what is known, by id.
func (f *founding) list() []Server {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Server, 0, len(f.known))
	for _, s := range f.known {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (n *Node) self() Server {
	return Server{ID: n.cfg.ID, Addr: n.cfg.Stream.Addr().String()}
}

// HandleJoin answers another server. The caller has checked that it is a
// control-plane node of this cluster whose certificate has the id req.Server.ID.
// Errors are those of AddServer.
func (n *Node) HandleJoin(ctx context.Context, req JoinRequest) (JoinAnswer, error) {
	r, err := n.running()
	if err != nil {
		return JoinAnswer{}, err
	}
	if r.State() == raft.Leader && req.StillMember {
		return n.handleStillMember(ctx, req.Server.ID)
	}
	if r.State() == raft.Leader {
		if err := n.admit(ctx, req.Server.ID, req.Server.Addr, true); err != nil {
			return JoinAnswer{}, err
		}
		return JoinAnswer{Status: JoinDone}, nil
	}
	if r.LastIndex() > 0 {
		_, addr, _ := n.Leader()
		return JoinAnswer{Status: JoinElsewhere, LeaderAddr: addr}, nil
	}
	if req.StillMember {
		return JoinAnswer{Status: JoinNoCluster}, nil
	}
	n.found.learn(append(req.Known, req.Server, n.self())...)
	answer := JoinAnswer{Status: JoinNoCluster, Known: n.found.list()}
	if len(req.Founders) > 0 {
		err = n.consent(r, req.Founders)
		answer.Consent = err == nil
	}
	if err != nil {
		n.cfg.Logger.Info("no consent to found a cluster", "asked_by", req.Server.ID, "err", err)
	}
	return answer, nil
}

// enter returns once this server is a member under its present address.
func (n *Node) enter(ctx context.Context, r *raft.Raft) error {
	n.found.learn(n.self())
	for ctx.Err() == nil {
		servers, err := members(r)
		if err != nil {
			return err
		}
		if me, ok := find(servers, n.cfg.ID); ok && me.Addr == n.self().Addr {
			return nil
		}
		if err := n.joinRound(ctx, r); err != nil {
			return err
		}
		// Jitter keeps servers that were started together from asking in step.
		pause(ctx, n.cfg.Timeouts.Join/2+rand.N(n.cfg.Timeouts.Join))
	}
	return nil
}

// joinRound asks everyone it can think of to be let in, and failing that tries
// to found a cluster.
func (n *Node) joinRound(ctx context.Context, r *raft.Raft) error {
	cluster := false
	for _, addr := range n.targets() {
		answer, err := n.ask(ctx, addr, JoinRequest{Server: n.self(), Known: n.found.list()})
		if err == nil && answer.Status == JoinElsewhere && answer.LeaderAddr != "" {
			cluster = true
			answer, err = n.ask(ctx, answer.LeaderAddr, JoinRequest{Server: n.self()})
		}
		if err != nil {
			n.cfg.Logger.Debug("another node did not let this one join", "addr", addr, "err", err)
			continue
		}
		if answer.Status == JoinDone {
			return nil
		}
		cluster = cluster || answer.Status == JoinElsewhere
		n.found.learn(answer.Known...)
	}
	if cluster || n.cfg.BootstrapExpect == 0 || r.LastIndex() > 0 {
		return nil
	}
	return n.tryFound(ctx, r)
}

// targets returns the addresses worth asking: those configured and those heard of.
func (n *Node) targets() []string {
	me := n.self().Addr
	var out []string
	add := func(addr string) {
		if addr != me && !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	for _, addr := range n.cfg.Join {
		add(addr)
	}
	for _, s := range n.found.list() {
		add(s.Addr)
	}
	return out
}

func (n *Node) ask(ctx context.Context, addr string, req JoinRequest) (JoinAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, joinCall)
	defer cancel()
	return n.cfg.Peers.Join(ctx, addr, req)
}

// tryFound founds a cluster if enough servers are known and each consents to the
// same set. Only the one with the lowest id tries; each consents to one set in
// its life, on disk, so no two overlapping clusters can come to be whatever is
// lost or repeated meanwhile. Consent is asked for in the order of ids and the
// first refusal ends the attempt: rivals, who know different servers, thus
// cannot block each other in a circle, and the losers join the winner's cluster.
//
// Two limits: BootstrapExpect must be more than half of the servers first
// started, or disjoint sets may both succeed; and a founder that is lost for
// good before the founding leaves the others waiting for it, until their empty
// data directories are deleted.
func (n *Node) tryFound(ctx context.Context, r *raft.Raft) error {
	founders := n.found.list()
	if len(founders) < n.cfg.BootstrapExpect {
		return nil
	}
	founders = founders[:n.cfg.BootstrapExpect]
	if founders[0].ID != n.cfg.ID {
		return nil
	}
	if err := n.consent(r, founders); err != nil {
		n.cfg.Logger.Warn("cannot found a cluster", "err", err)
		return nil
	}
	for _, s := range founders[1:] {
		answer, err := n.ask(ctx, s.Addr, JoinRequest{Server: n.self(), Founders: founders})
		if err != nil || !answer.Consent {
			n.cfg.Logger.Info("a founder did not consent yet", "server", s.ID, "addr", s.Addr, "err", err)
			return nil
		}
	}
	return n.bootstrap(r, founders)
}

func (n *Node) bootstrap(r *raft.Raft, founders []Server) error {
	err := r.BootstrapCluster(asVoters(founders)).Error()
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("found cluster: %w", err)
	}
	n.cfg.Logger.Info("cluster founded", "servers", len(founders))
	return nil
}

// consent binds this server to one founding set for ever.
func (n *Node) consent(r *raft.Raft, founders []Server) error {
	n.change.Lock()
	defer n.change.Unlock()
	me, ok := find(founders, n.cfg.ID)
	if !ok || me.Addr != n.self().Addr || r.LastIndex() > 0 {
		return fmt.Errorf("%w: not an empty founder at this address", ErrConflict)
	}
	want := foundersText(founders)
	have, err := os.ReadFile(filepath.Join(n.cfg.Dir, grantFile))
	if errors.Is(err, fs.ErrNotExist) {
		return writeMark(n.cfg.Dir, grantFile, want)
	}
	if err != nil {
		return fmt.Errorf("read founding set: %w", err)
	}
	if string(have) != want {
		return fmt.Errorf("%w: bound to another founding set", ErrConflict)
	}
	return nil
}

func foundersText(founders []Server) string {
	var b strings.Builder
	for _, s := range founders {
		fmt.Fprintf(&b, "%s %s\n", s.ID, s.Addr)
	}
	return b.String()
}
