package consensus

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

// askAfter is how many heartbeat timeouts without any leader make a server ask
// whether it is a member still. Elections are over by then, if there can be one.
const askAfter = 5

// runMembership brings this server into the cluster, and later notices if it is
// taken out. The leader stops sending to a server as soon as its removal is
// committed, so that the server may never hear of it: one that is without a leader
// for long asks.
func (n *Node) runMembership(ctx context.Context, r *raft.Raft) error {
	if err := n.enter(ctx, r); err != nil || ctx.Err() != nil {
		return err
	}
	ticker := time.NewTicker(n.cfg.Timeouts.Heartbeat)
	defer ticker.Stop()
	alone := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if _, leader := r.LeaderWithID(); leader == "" {
			alone++
		} else {
			alone = 0
		}
		out, err := n.seesRemoval()
		if err == nil && !out && alone >= askAfter {
			out, err = n.askIfRemoved(ctx, r)
		}
		if err != nil {
			return err
		}
		if out {
			return errors.Join(ErrRemoved, writeMark(n.cfg.Dir, removedFile, ""))
		}
	}
}

// seesRemoval tells whether a committed membership is without this server, after one
// that had it: a new server applies the memberships of times before it came.
func (n *Node) seesRemoval() (bool, error) {
	was, err := n.noteMembership()
	now := n.fsm.members.Load()
	if err != nil || now == nil || !was {
		return false, err
	}
	_, ok := find(now.servers, n.cfg.ID)
	return !ok, nil
}

// noteMembership tells whether this server was a member ever, which it writes down.
func (n *Node) noteMembership() (bool, error) {
	if exists(filepath.Join(n.cfg.Dir, memberFile)) {
		return true, nil
	}
	if !n.fsm.wasMember.Load() {
		return false, nil
	}
	return true, writeMark(n.cfg.Dir, memberFile, "")
}

// askIfRemoved asks everyone it can think of, until the leader has answered. A
// server whose addition was never committed is no member either: it asks to be
// let in again.
func (n *Node) askIfRemoved(ctx context.Context, r *raft.Raft) (bool, error) {
	if n.cfg.Peers == nil || n.leaderSays(ctx, r) != JoinRemoved {
		return false, nil
	}
	if was, err := n.noteMembership(); was || err != nil {
		return was, err
	}
	return false, n.joinRound(ctx, r)
}

// leaderSays returns the leader's answer to whether this server is a member, or
// JoinElsewhere if no leader was reached.
func (n *Node) leaderSays(ctx context.Context, r *raft.Raft) JoinStatus {
	if servers, err := members(r); err == nil {
		n.found.learn(servers...)
	}
	for _, addr := range n.targets() {
		answer, err := n.ask(ctx, addr, JoinRequest{Server: n.self(), StillMember: true})
		if err == nil && answer.Status == JoinElsewhere && answer.LeaderAddr != "" && answer.LeaderAddr != n.self().Addr {
			answer, err = n.ask(ctx, answer.LeaderAddr, JoinRequest{Server: n.self(), StillMember: true})
		}
		if err != nil {
			n.cfg.Logger.Debug("another node did not say whether this one is a member", "addr", addr, "err", err)
			continue
		}
		if answer.Status == JoinRemoved || answer.Status == JoinDone {
			return answer.Status
		}
	}
	return JoinElsewhere
}

// handleStillMember answers on the leader. It proves first that it leads, and
// looks at a committed configuration only: the answer may end a server for good.
func (n *Node) handleStillMember(ctx context.Context, id string) (JoinAnswer, error) {
	if _, err := n.ReadIndex(ctx); err != nil {
		return JoinAnswer{}, err
	}
	now := n.fsm.members.Load()
	if now == nil {
		return JoinAnswer{}, ErrBusy
	}
	if _, ok := find(now.servers, id); ok {
		return JoinAnswer{Status: JoinDone}, nil
	}
	return JoinAnswer{Status: JoinRemoved}, nil
}
