package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"tarn/controlplane/consensus"
	"tarn/controlplane/observe"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// State gives the replicated state.
type State interface {
	View() *raftfsm.View
}

// Proposer writes to the log. It stamps the proposer's id and term. Errors are
// those of consensus.Node.
type Proposer interface {
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftfsm.Result, error)
}

// Config of a Loop.
type Config struct {
	State    State
	Proposer Proposer
	// Soft and Leases are the leader's memory; whoever starts the loop has told
	// both that leadership began.
	Soft   *observe.State
	Leases *observe.Leases
	Policy Policy
	// NewID makes ids of replicas, promotions and messages.
	NewID  func() string
	Logger *slog.Logger
	// Interval is how long the loop sleeps at most when nothing changes: lags grow
	// and hosts fall silent without an event. Default 500 ms.
	Interval time.Duration
	// Observe is called after every round with the time that Step took; nil for none.
	Observe func(took time.Duration, commands int)
	// Promoted is called with a share whose promotion has just ended; nil for none.
	Promoted func(*tarnv1.Share)
}

// Loop runs Step while this node leads.
type Loop struct {
	cfg  Config
	past memory
}

// NewLoop checks the configuration and starts nothing.
func NewLoop(cfg Config) (*Loop, error) {
	if cfg.State == nil || cfg.Proposer == nil || cfg.Soft == nil || cfg.Leases == nil || cfg.NewID == nil || cfg.Logger == nil {
		return nil, errors.New("reconcile needs state, proposer, soft state, leases, ids and a logger")
	}
	if err := cfg.Policy.Validate(); err != nil {
		return nil, err
	}
	if cfg.Interval == 0 {
		cfg.Interval = 500 * time.Millisecond
	}
	if cfg.Interval < 0 {
		return nil, errors.New("reconcile: the interval must be positive")
	}
	if cfg.Observe == nil {
		cfg.Observe = func(time.Duration, int) {}
	}
	if cfg.Promoted == nil {
		cfg.Promoted = func(*tarnv1.Share) {}
	}
	return &Loop{cfg: cfg}, nil
}

// Run works until ctx ends, with the leadership, and returns nil then. A log that
// refuses for a while (a transfer of leadership that fails leaves this node the
// leader) is asked again. It may be run again for the next leadership, one at a time.
func (l *Loop) Run(ctx context.Context) error {
	l.past = memory{}
	for ctx.Err() == nil {
		view := l.cfg.State.View()
		heard := l.cfg.Soft.Changed()
		thought, err := l.round(ctx, view)
		if err != nil {
			l.refused(ctx, err)
			sleep(ctx, l.cfg.Interval)
			continue
		}
		// A large cluster takes long to look over: think for a fifth of the time at most.
		sleep(ctx, 4*thought)
		l.await(ctx, view, heard)
	}
	return nil
}

func (l *Loop) refused(ctx context.Context, err error) {
	level := slog.LevelWarn
	if _, ok := errors.AsType[*consensus.NotLeaderError](err); ok || ctx.Err() != nil {
		level = slog.LevelDebug
	}
	l.cfg.Logger.Log(ctx, level, "reconcile round failed, it is repeated", "err", err)
}

func (l *Loop) await(ctx context.Context, view *raftfsm.View, heard <-chan struct{}) {
	timer := time.NewTimer(l.cfg.Interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-view.Changed():
	case <-heard:
	case <-timer.C:
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// round proposes what Step asks for, one command after the other. The view is
// older than the snapshot of the reports, as Step demands.
func (l *Loop) round(ctx context.Context, view *raftfsm.View) (thought time.Duration, err error) {
	now := time.Now()
	observed := l.cfg.Soft.Snapshot(now, l.cfg.Leases)
	commands := Step(l.cfg.Policy, view, observed, now, l.cfg.NewID)
	thought = time.Since(now)
	proposed := 0
	due := l.past.due(commands, now)
	for i, cmd := range due {
		result, err := l.cfg.Proposer.Propose(ctx, cmd)
		if err != nil {
			l.past.forget(due[i:])
			return thought, err
		}
		proposed++
		l.after(cmd, result, now)
	}
	l.cfg.Observe(thought, proposed)
	return thought, nil
}

func (l *Loop) after(cmd *raftv1.Command, result *raftfsm.Result, now time.Time) {
	if result.Err != nil {
		l.cfg.Logger.Warn("command of the leader was refused", "command", subject(cmd), "err", result.Err)
	}
	if result.Dropped > 0 {
		l.cfg.Logger.Debug("transitions were overtaken", "dropped", result.Dropped)
	}
	if share, ok := result.Record.(*tarnv1.Share); ok && cmd.GetActivate() != nil && result.Err == nil {
		l.cfg.Promoted(share)
	}
	l.note(cmd, result)
	if p := cmd.GetPromoteReplica(); p != nil && result.Err == nil && p.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_PLANNED {
		wait := l.cfg.Policy.StopTime
		switch {
		case p.GetWait() != nil:
			wait = p.GetWait().AsDuration()
		case p.GetCatchUp():
			wait = l.cfg.Policy.PrepareTime
		}
		l.cfg.Soft.SetQuiesce(p.GetOpId(), now.Add(wait))
	}
}

// note keeps the leader's memory of promotions.
func (l *Loop) note(cmd *raftv1.Command, result *raftfsm.Result) {
	if result.Err != nil {
		return
	}
	switch v := cmd.GetVerb().(type) {
	case *raftv1.Command_PromoteReplica:
		if !v.PromoteReplica.GetCatchUp() {
			l.cfg.Soft.Began(v.PromoteReplica.GetOpId(), time.Now())
		}
	case *raftv1.Command_CancelPromotion:
		l.cfg.Soft.Forget(v.CancelPromotion.GetOpId())
	case *raftv1.Command_Activate:
		l.cfg.Soft.Forget(v.Activate.GetOpId())
	}
}
