package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	tarnv1 "tarn/proto/tarn/v1"
)

// pollEvery is short beside what is waited for and long beside one call.
const pollEvery = 150 * time.Millisecond

// waitFlags make a command stay until its work is done.
type waitFlags struct {
	Wait    bool          `help:"Return when it is done, showing progress on stderr."`
	Timeout time.Duration `help:"How long --wait waits." default:"10m"`
}

// progress is one look at work under way.
type progress struct {
	done bool
	// text is the state in few words.
	text string
	// fraction is 0 to 1; negative when unknown.
	fraction float64
	eta      time.Duration
}

// await polls look until done, an error, or the timeout (exit code 5: the work goes on).
func (a *app) await(ctx context.Context, flags waitFlags, what string, look func(context.Context) (progress, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, flags.Timeout, errTimeout)
	defer cancel()
	meter := newMeter(a, what)
	defer meter.end()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		p, err := look(ctx)
		switch {
		case errors.Is(context.Cause(ctx), errTimeout):
			return timedOut(what, flags.Timeout, meter.last)
		case err != nil:
			return err
		}
		meter.show(p)
		if p.done {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

var errTimeout = errors.New("timed out")

func timedOut(what string, after time.Duration, last string) error {
	return fail(exitUnavailable, "%s: not done after %s (%s)", what, after, last).
		next("the work goes on without you; look with `show` or repeat with a longer --timeout")
}

// meter prints progress: a bar that is redrawn on a terminal, else a line per change.
type meter struct {
	a     *app
	what  string
	tty   bool
	last  string
	drawn bool
	start time.Time
}

func newMeter(a *app, what string) *meter {
	return &meter{a: a, what: what, tty: isTerminal(a.stderr), start: time.Now()}
}

func (m *meter) show(p progress) {
	line := p.text
	if m.tty {
		line = p.text + bar(p)
	}
	if line == m.last {
		return
	}
	m.last = line
	if m.tty {
		fmt.Fprintf(m.a.stderr, "\r\x1b[K%s: %s", m.what, line)
		m.drawn = true
		return
	}
	fmt.Fprintf(m.a.stderr, "%s: %s (%s)\n", m.what, line, shortDuration(time.Since(m.start)))
}

func (m *meter) end() {
	if m.drawn {
		fmt.Fprintln(m.a.stderr)
	}
}

func bar(p progress) string {
	if p.fraction < 0 || p.done {
		return ""
	}
	const width = 30
	full := int(min(max(p.fraction, 0), 1) * width)
	text := fmt.Sprintf(" [%s%s] %3.0f%%", strings.Repeat("=", full), strings.Repeat(" ", width-full), p.fraction*100)
	if p.eta > 0 {
		text += " ETA " + shortDuration(p.eta)
	}
	return text
}

// gone turns "not found" into the end of a deletion.
func gone(err error) (progress, error) {
	if connect.CodeOf(err) == connect.CodeNotFound {
		return progress{done: true, text: "deleted", fraction: 1}, nil
	}
	return progress{}, err
}

// statusProgress follows a record to available; an error status ends the wait.
func statusProgress(status tarnv1.Status) (progress, error) {
	text := enumText(status)
	switch status {
	case tarnv1.Status_STATUS_AVAILABLE:
		return progress{done: true, text: text, fraction: 1}, nil
	case tarnv1.Status_STATUS_ERROR, tarnv1.Status_STATUS_ERROR_DELETING, tarnv1.Status_STATUS_EXTENDING_ERROR,
		tarnv1.Status_STATUS_SHRINKING_ERROR, tarnv1.Status_STATUS_SHRINKING_POSSIBLE_DATA_LOSS_ERROR,
		tarnv1.Status_STATUS_MANAGE_ERROR, tarnv1.Status_STATUS_UNMANAGE_ERROR:
		return progress{}, fail(exitFailure, "status became %s", text).next("`tarn message list` says why")
	}
	return progress{text: text, fraction: -1}, nil
}
