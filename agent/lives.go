package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs/durable"
)

// lifeFile below the data directory says that this machine, in this of its lives, is a copy
// that had to stop: a new session of its agent would take the host over from the other.
const lifeFile = "another_life"

// ErrAnotherLife says that another copy of this machine goes on as the host.
var ErrAnotherLife = errors.New("another copy of this machine, memory and all, goes on as this host: nothing is served here")

// only is whether this is the host's only life, as far as it was told. Safe for concurrent use.
type only struct {
	file, machine string

	mu   sync.Mutex
	over bool
	stop func()
}

// openOnly reads what this machine was told before. Which life of a machine that was is
// part of its name: a reboot ends it.
func openOnly(dir, machine string) (*only, error) {
	o := &only{file: filepath.Join(dir, lifeFile), machine: machine, stop: func() {}}
	text, err := os.ReadFile(o.file)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read whether another life of this host goes on: %w", err)
	}
	if marked := strings.TrimSpace(string(text)); marked != "" && machine != "" && marked != machine {
		if err := os.Remove(o.file); err != nil {
			return nil, fmt.Errorf("forget what an earlier life of this machine was told: %w", err)
		}
		return o, nil
	}
	o.over = true
	return o, nil
}

// isOver reports that another life goes on, and this one must not.
func (o *only) isOver() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.over
}

// while returns a context that ends when this life is over.
func (o *only) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stop = cancel; o.over {
		cancel()
	}
	return ctx, cancel
}

// end stops this life for good. An error means that a restart of the agent will not know.
func (o *only) end() error {
	err := durable.Replace(o.file, []byte(o.machine+"\n"))
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	o.stop()
	return err
}

// anotherLife hears from the lease that another copy of this agent goes on. All rights are
// gone already.
func (a *Agent) anotherLife() {
	if err := a.only.end(); err != nil {
		a.log.Error("do not start this agent again before a reboot: it would take the host over from its other life", "err", fmt.Errorf("write %s: %w", a.only.file, err))
	}
}

// whatNow is the way out, for whoever looks after this machine.
func (o *only) whatNow() string {
	return "reboot this machine: it then takes the host over when the other one is off. If the other one is off for good: remove " + o.file +
		" and restart the agent. If this is to be a host of its own, it needs an identity and a data directory of its own: tarn operator token create agent"
}

// stayAside is what is left of an agent whose other life goes on, until ctx ends: what was
// served for writing stays out of reach, and the control plane is told now and then.
func (a *Agent) stayAside(ctx context.Context) error {
	a.pulses.only(loopReports)
	a.log.Error("another life of this host goes on", "err", ErrAnotherLife, "next", a.only.whatNow())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.pools.run(ctx) }) // those that come back
	group.Go(func() error {
		for retired, sequence := false, uint64(1); ; sequence++ {
			a.pulses.turn(loopReports)
			if !retired {
				err := a.retire()
				if retired = err == nil; err != nil {
					a.log.Error("what this life served could not be taken out of reach yet", "err", err)
				}
			}
			a.tellAnotherLife(ctx, sequence)
			if wait(ctx, a.cfg.ReportInterval) != nil {
				return nil
			}
		}
	})
	return group.Wait()
}

// tellAnotherLife reports under a session that nobody has registered, so that not even a
// leader of an older release takes it for the host's.
func (a *Agent) tellAnotherLife(ctx context.Context, sequence uint64) {
	_, err := call(ctx, a, "Report", callTimeout, a.control.Report, &tarnv1.ReportRequest{
		HostId: a.hostID, SessionId: "another life, " + a.session, Sequence: sequence, AnotherLife: true,
	})
	if err != nil && ctx.Err() == nil {
		a.log.Warn("control plane could not be told of this life", "err", err)
	}
}
