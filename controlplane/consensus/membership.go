package consensus

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// Server is a member of the cluster.
type Server struct {
	ID    string
	Addr  string // host:port
	Voter bool   // false until the leader found it caught up and stable
}

// promoteSlack is how many entries a server may be behind and count as caught up.
const promoteSlack = 256

// Servers returns the members, as of the newest configuration this node has,
// committed or not.
func (n *Node) Servers() ([]Server, error) {
	r, err := n.running()
	if err != nil {
		return nil, err
	}
	return members(r)
}

// members returns the newest configuration that raft has, committed or not.
func members(r *raft.Raft) ([]Server, error) {
	future := r.GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, fmt.Errorf("read membership: %w", err)
	}
	return fromConfiguration(future.Configuration()), nil
}

func fromConfiguration(c raft.Configuration) []Server {
	var out []Server
	for _, s := range c.Servers {
		out = append(out, Server{ID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	return out
}

func find(servers []Server, id string) (Server, bool) {
	for _, s := range servers {
		if s.ID == id {
			return s, true
		}
	}
	return Server{}, false
}

// AddServer lets a server in without a vote, which it gets by itself once it is
// caught up and stable. Adding a member again changes nothing. Leader only. An address
// that another member has gives ErrConflict: remove that member first. So does another
// address of a member: only the server itself can change it, see HandleJoin, for raft
// would silently send everything to the new one (reliability.md 2.2, number 13).
func (n *Node) AddServer(ctx context.Context, id, addr string) error {
	return n.admit(ctx, id, addr, false)
}

// admit is AddServer; proven says that whoever asks holds the certificate of id.
func (n *Node) admit(ctx context.Context, id, addr string, proven bool) error {
	return n.reconfigure(ctx, func(r *raft.Raft, servers []Server, index uint64) (raft.Future, error) {
		for _, s := range servers {
			if s.Addr == addr && s.ID != id {
				return nil, fmt.Errorf("%w: address %s belongs to server %s", ErrConflict, addr, s.ID)
			}
			if s.ID == id && s.Addr == addr {
				return nil, nil
			}
			if s.ID == id && !proven {
				return nil, fmt.Errorf("%w: server %s is at %s; only the server itself changes that, by starting with another advertise address", ErrConflict, id, s.Addr)
			}
		}
		return r.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), index, patience(ctx)), nil
	})
}

// RemoveServer takes a server out of the cluster for ever. Leader only; the
// leader may remove itself and then ends with ErrRemoved. The last voter and an
// unknown id give ErrConflict, and so does a voter without whom those that answer
// would be no majority of the rest: add a replacement first.
func (n *Node) RemoveServer(ctx context.Context, id string) error {
	return n.reconfigure(ctx, func(r *raft.Raft, servers []Server, index uint64) (raft.Future, error) {
		target, ok := find(servers, id)
		if !ok {
			return nil, fmt.Errorf("%w: no server %s", ErrConflict, id)
		}
		if target.Voter && voters(servers) == 1 {
			return nil, fmt.Errorf("%w: %s is the last voter", ErrConflict, id)
		}
		if err := n.checkQuorumWithout(servers, id, r.CurrentTerm()); err != nil {
			return nil, err
		}
		return r.RemoveServer(raft.ServerID(id), index, patience(ctx)), nil
	})
}

// checkQuorumWithout refuses a removal after which the leader could commit nothing.
func (n *Node) checkQuorumWithout(servers []Server, id string, term uint64) error {
	voters, alive := 0, 0
	for _, s := range servers {
		if !s.Voter || s.ID == id {
			continue
		}
		voters++
		a := n.acks.last(raft.ServerID(s.ID))
		if s.ID == n.cfg.ID || a.term == term && time.Since(a.at) < 2*n.cfg.Timeouts.Heartbeat {
			alive++
		}
	}
	if target, _ := find(servers, id); target.Voter && alive <= voters/2 {
		return fmt.Errorf("%w: without %s only %d of %d voters would answer: add a replacement and wait for its vote first", ErrConflict, id, alive, voters)
	}
	return nil
}

func voters(servers []Server) int {
	count := 0
	for _, s := range servers {
		if s.Voter {
			count++
		}
	}
	return count
}

type changeFunc func(r *raft.Raft, servers []Server, index uint64) (raft.Future, error)

// reconfigure makes one change on top of exactly the membership it looked at, which
// is committed. A change that another leader left unfinished gives ErrConflict until
// it is committed or gone.
func (n *Node) reconfigure(ctx context.Context, change changeFunc) error {
	r, err := n.running()
	if err != nil {
		return err
	}
	n.change.Lock()
	defer n.change.Unlock()
	if r.State() != raft.Leader {
		return n.notLeader()
	}
	latest, err := members(r)
	if err != nil {
		return err
	}
	now := n.fsm.members.Load()
	if now == nil || !slices.Equal(now.servers, latest) {
		return fmt.Errorf("%w: an earlier change is not finished yet, retry", ErrConflict)
	}
	future, err := change(r, now.servers, now.index)
	if err != nil || future == nil {
		return err
	}
	return n.await(ctx, future)
}

// runPromotions gives votes to servers that have been caught up, in contact,
// without a break for Timeouts.Promote.
func (n *Node) runPromotions(ctx context.Context, r *raft.Raft, term uint64) error {
	since := map[string]time.Time{}
	ticker := time.NewTicker(max(n.cfg.Timeouts.Promote/10, 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-ticker.C:
			if err := n.promoteReady(ctx, r, term, since, now); err != nil {
				n.cfg.Logger.Warn("promotion of a server failed, it will be tried again", "term", term, "err", err)
			}
		}
	}
}

func (n *Node) promoteReady(ctx context.Context, r *raft.Raft, term uint64, since map[string]time.Time, now time.Time) error {
	servers, err := members(r)
	if err != nil {
		return err
	}
	for _, s := range servers {
		a := n.acks.last(raft.ServerID(s.ID))
		healthy := a.term == term && now.Sub(a.at) < n.cfg.Timeouts.Heartbeat &&
			a.lastLog+promoteSlack >= r.CommitIndex()
		if s.Voter || !healthy {
			delete(since, s.ID)
			continue
		}
		if _, seen := since[s.ID]; !seen {
			since[s.ID] = now
		}
		if now.Sub(since[s.ID]) >= n.cfg.Timeouts.Promote {
			return n.promote(ctx, s)
		}
	}
	return nil
}

func (n *Node) promote(ctx context.Context, s Server) error {
	n.cfg.Logger.Info("server is caught up and gets a vote", "server", s.ID, "addr", s.Addr)
	return n.reconfigure(ctx, func(r *raft.Raft, servers []Server, index uint64) (raft.Future, error) {
		if now, ok := find(servers, s.ID); !ok || now != s {
			return nil, nil // changed meanwhile: the next round looks again
		}
		return r.AddVoter(raft.ServerID(s.ID), raft.ServerAddress(s.Addr), index, patience(ctx)), nil
	})
}
