package consensus

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// alive asks a member once, with the patience of a test.
func (m *member) alive(patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return m.node.Alive(ctx)
}

// dead waits until a member gives no sign of life and says whose it lacks.
func (c *cluster) dead(m *member, part string) {
	c.t.Helper()
	eventually(c.t, part+" is missed", func() bool {
		err := m.alive(300 * time.Millisecond)
		return errors.Is(err, ErrNotAlive) && strings.Contains(err.Error(), part)
	})
}

// Members live whether they lead, follow or reach nobody; one whose main loop stands
// still does not, until it goes on.
func TestMainLoopProvesLife(t *testing.T) {
	c := three(t)
	leader := c.leader()
	for _, m := range c.members {
		if err := m.alive(time.Minute); err != nil {
			t.Errorf("%s: %v", m.addr, err)
		}
	}
	r, err := leader.node.running()
	if err != nil {
		t.Fatal(err)
	}
	news := make(chan raft.Observation)
	observer := raft.NewObserver(news, true, func(o *raft.Observation) bool {
		_, steps := o.Data.(raft.RaftState)
		return steps
	})
	r.RegisterObserver(observer)
	for _, m := range c.followers() { // it steps down, and would say so first
		if err := m.stop(); err != nil {
			t.Fatal(err)
		}
	}
	c.dead(leader, "main loop")
	go func() { // deregistering waits for whoever observes
		for range news {
		}
	}()
	r.DeregisterObserver(observer)
	close(news)
	if err := leader.alive(time.Minute); err != nil {
		t.Errorf("alone: %v", err)
	}
}

// stuckFSM does not come back from its first command before it is let go.
type stuckFSM struct {
	listFSM
	let chan struct{}
}

func (f *stuckFSM) Apply(l *raft.Log) any {
	<-f.let
	return f.listFSM.Apply(l)
}

// A node that takes commands and does nothing with them is not alive.
func TestStateMachineProvesLife(t *testing.T) {
	fsm := &stuckFSM{let: make(chan struct{})}
	c := &cluster{t: t}
	m := c.add(func(cfg *Config) { cfg.BootstrapExpect, cfg.FSM = 1, fsm })
	proposed := make(chan error, 1)
	c.leader()
	go func() {
		_, _, err := m.node.Propose(context.Background(), []byte("x"))
		proposed <- err
	}()
	c.dead(m, "state machine")
	close(fsm.let)
	if err := errors.Join(<-proposed, m.alive(time.Minute)); err != nil {
		t.Error(err)
	}
	if err := m.stop(); err != nil {
		t.Error(err)
	}
	if err := m.alive(time.Minute); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after its end: %v", err)
	}
}
