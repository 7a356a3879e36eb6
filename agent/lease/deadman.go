package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"
)

// DeadmanConfig says how the helper process is started and who hears of it.
type DeadmanConfig struct {
	// Command is program and arguments; the program must call RunDeadman on its
	// standard input and output.
	Command []string
	// Start, if set, starts the helper instead, by other means than a child of this
	// process. The files are its input and output, and the caller's to close.
	Start func(orders, answers *os.File) (Process, error)
	// Stderr of the helper; the agent's own when unset.
	Stderr *os.File
	// Patience bounds the wait for a confirmation, after which the helper counts
	// as stuck and is replaced. 1 s when zero.
	Patience time.Duration
	// Fenced, if set, is told what the helper fenced, or could not.
	Fenced func(target Target, err error)
	// Changed, if set, is called when Up has changed. It must not block.
	Changed func()
	Logger  *slog.Logger
}

// Process is a helper that Start started.
type Process interface {
	// Wait returns when it has ended. It is called once.
	Wait() error
	// Kill ends it; it does not wait.
	Kill()
}

// ErrNoHelper says that no helper process is up to guard a lease.
var ErrNoHelper = errors.New("dead-man helper is not running")

// Deadman keeps the helper process alive and tells it the deadlines. The helper
// is a session of its own: it survives the death of this process and then
// fences at the last deadlines it was given. Safe for concurrent use.
type Deadman struct {
	config DeadmanConfig

	mu       sync.Mutex
	armed    map[Target]time.Duration
	session  *session      // nil while none is up
	up       chan struct{} // closed while one is
	sequence uint64
	trouble  string // of the session's backstop
}

// session is one life of the helper process.
type session struct {
	process Process
	orders  *os.File
	done    chan struct{} // closed when the process has ended
	stuck   chan struct{}
	once    sync.Once
	mu      sync.Mutex
	waiters map[uint64]chan struct{}
}

// NewDeadman returns a Deadman whose helper starts with Run.
func NewDeadman(config DeadmanConfig) (*Deadman, error) {
	if len(config.Command) == 0 && config.Start == nil {
		return nil, errors.New("dead-man needs a command")
	}
	if config.Patience == 0 {
		config.Patience = time.Second
	}
	if config.Stderr == nil {
		config.Stderr = os.Stderr
	}
	if config.Fenced == nil {
		config.Fenced = func(Target, error) {}
	}
	if config.Changed == nil {
		config.Changed = func() {}
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Deadman{config: config, armed: map[Target]time.Duration{}, up: make(chan struct{})}, nil
}

// Up reports whether a helper takes orders.
func (d *Deadman) Up() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.session != nil
}

// Trouble says what is wrong with what backs the helper (Configure): "" while it works,
// or when there is none, or no helper.
func (d *Deadman) Trouble() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.trouble
}

// Arm tells the helper later deadlines and waits until it has confirmed; while
// none is up it waits for one. An error means that they must not be relied on.
func (d *Deadman) Arm(ctx context.Context, armed []Armed) error {
	d.mu.Lock()
	up := d.up
	d.mu.Unlock()
	select {
	case <-up:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNoHelper, ctx.Err())
	}
	d.mu.Lock()
	s := d.session
	if s == nil {
		d.mu.Unlock()
		return ErrNoHelper
	}
	for _, a := range armed {
		d.armed[a.Target] = max(d.armed[a.Target], a.Deadline)
	}
	confirmed, err := d.send(s, order{Arm: armed})
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return d.await(ctx, s, confirmed)
}

// Disarm makes the helper forget targets. It does not wait: a helper that misses
// this only fences what cannot be written anyway.
func (d *Deadman) Disarm(targets ...Target) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var known []Target
	for _, t := range targets {
		if _, ok := d.armed[t]; ok {
			delete(d.armed, t)
			known = append(known, t)
		}
	}
	if d.session == nil || len(known) == 0 {
		return
	}
	if _, err := d.send(d.session, order{Forget: known}); err != nil {
		d.config.Logger.Warn("dead-man was not told to forget", "err", err)
	}
}

// send writes one order; the channel is closed when it is confirmed. The caller
// has the lock, which keeps orders whole and in sequence.
func (d *Deadman) send(s *session, o order) (<-chan struct{}, error) {
	d.sequence++
	o.Sequence = d.sequence
	return s.tell(o, d.config.Patience)
}

func (d *Deadman) await(ctx context.Context, s *session, confirmed <-chan struct{}) error {
	patience := time.NewTimer(d.config.Patience)
	defer patience.Stop()
	select {
	case <-confirmed:
		return nil
	case <-s.done:
		return ErrNoHelper
	case <-ctx.Done():
		return fmt.Errorf("wait for dead-man: %w", ctx.Err())
	case <-patience.C:
		s.fail()
		return fmt.Errorf("dead-man is silent for %s", d.config.Patience)
	}
}

// Run keeps one helper up until ctx ends. Then it lets go of the helper, which
// ends at once if nothing is armed and otherwise when all is fenced. A helper
// that is stuck is killed only after its replacement has taken all deadlines.
func (d *Deadman) Run(ctx context.Context) error {
	var former *session
	backoff := time.Duration(0)
	for {
		if err := pause(ctx, backoff); err != nil {
			break
		}
		s, err := d.start(ctx)
		if err != nil {
			d.config.Logger.Error("dead-man helper did not start", "err", err)
			backoff = min(max(2*backoff, 100*time.Millisecond), 5*time.Second)
			continue
		}
		former.kill(d.config.Patience)
		backoff = 100 * time.Millisecond
		select {
		case <-ctx.Done():
			d.leave(s)
			return nil
		case <-s.done:
			d.config.Logger.Error("dead-man helper ended; starting another")
		case <-s.stuck:
			d.config.Logger.Error("dead-man helper is stuck; starting another")
		}
		d.drop(s)
		former = s
	}
	if former != nil {
		d.abandon(former)
	}
	return nil
}

// abandon ends a helper that has no replacement, unless something is armed: one that is
// stuck is the only one left that may yet fence it.
func (d *Deadman) abandon(s *session) {
	d.mu.Lock()
	armed := len(d.armed)
	d.mu.Unlock()
	select {
	case <-s.done:
		if armed > 0 {
			d.config.Logger.Error("no dead-man is left to fence what is armed", "armed", armed)
		}
		return
	default:
	}
	if armed == 0 {
		s.kill(d.config.Patience)
		return
	}
	_ = s.orders.Close()
	d.config.Logger.Warn("dead-man is stuck and stays: it has to fence what is armed", "armed", armed)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// start spawns a helper, gives it all that is armed, and makes it the current one.
func (d *Deadman) start(ctx context.Context) (*session, error) {
	s, answers, err := spawn(d.config)
	if err != nil {
		return nil, err
	}
	d.backed("")
	go s.listen(answers, d.inherited, d.fenced, d.backed)
	d.mu.Lock()
	all := make([]Armed, 0, len(d.armed))
	for t, deadline := range maps.All(d.armed) {
		all = append(all, Armed{Target: t, Deadline: deadline})
	}
	d.sequence++
	first := order{Sequence: d.sequence, Arm: all}
	d.mu.Unlock()
	// A new helper is a process that has yet to begin, and may first have to ask its
	// predecessor. Nobody else writes to it before it is the current one, so that others
	// need not wait for the lock meanwhile.
	patience := 5*d.config.Patience + takeoverPatience
	confirmed, err := s.tell(first, patience)
	if err == nil {
		err = s.ready(ctx, confirmed, patience)
	}
	if err != nil && ctx.Err() != nil {
		// It may have taken over what an earlier one had armed, which nobody else has. With
		// nothing armed it ends at once.
		_ = s.orders.Close()
		return nil, err
	}
	if err != nil {
		s.kill(d.config.Patience)
		return nil, err
	}
	d.mu.Lock()
	d.session = s
	close(d.up)
	d.mu.Unlock()
	d.config.Changed()
	return s, nil
}

func (d *Deadman) drop(s *session) {
	d.mu.Lock()
	current := d.session == s
	if current {
		d.session, d.up = nil, make(chan struct{})
	}
	d.mu.Unlock()
	if current {
		d.config.Changed()
	}
}

// leave closes the helper's orders and gives one with nothing to guard time to end.
func (d *Deadman) leave(s *session) {
	d.drop(s)
	_ = s.orders.Close()
	d.mu.Lock()
	armed := len(d.armed)
	d.mu.Unlock()
	if armed > 0 {
		d.config.Logger.Info("dead-man stays until the leases end", "armed", armed)
		return
	}
	select {
	case <-s.done:
	case <-time.After(d.config.Patience):
	}
}

// inherited notes what the helper has of an earlier agent's: who replaces that helper has to
// guard it too, and whoever finds it unreachable may say so.
func (d *Deadman) inherited(armed []Armed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range armed {
		d.armed[a.Target] = max(d.armed[a.Target], a.Deadline)
	}
}

func (d *Deadman) fenced(t Target, err error) {
	if err == nil {
		d.mu.Lock()
		if d.armed[t] <= BootTime() {
			delete(d.armed, t)
		}
		d.mu.Unlock()
	}
	d.config.Fenced(t, err)
}

func (d *Deadman) backed(trouble string) {
	d.mu.Lock()
	changed := d.trouble != trouble
	d.trouble = trouble
	d.mu.Unlock()
	if changed {
		d.config.Changed()
	}
}
