package lease

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"time"
)

// HelperConfig is what the dead-man's own process runs on.
type HelperConfig struct {
	// In carries the agent's orders, Out the answers. The end of In means that the
	// agent is gone: what is armed is fenced at its deadline, not before.
	In  io.Reader
	Out io.Writer
	// Dir is where successive helpers of one agent find each other; "" for no hand-over.
	Dir string
	// Patience bounds the wait for an earlier helper in Dir. 1 s when zero.
	Patience time.Duration
	// Fence makes a target unreachable for writers. It is repeated until it
	// answers nil or fs.ErrNotExist, and must be idempotent.
	Fence func(Target) error
	// Backstop is what holds when the helper does not; nil for none.
	Backstop Backstop
	// Clock gives instants; BootTime when unset.
	Clock  func() time.Duration
	Logger *slog.Logger
}

const (
	// helperLook bounds the time to notice a deadline after a suspend, during
	// which timers stand still and the clock goes on.
	helperLook = 250 * time.Millisecond
	fenceRetry = 100 * time.Millisecond
	// fenceGiveUp bounds the life of an abandoned helper whose target cannot be fenced.
	fenceGiveUp = 10 * time.Minute
	// answerWithin bounds how long an order waits for the backstop: the agent's patience
	// with its helper is longer.
	answerWithin = 500 * time.Millisecond
)

// errGaveUp says that a target could not be fenced in ten minutes after its deadline.
var errGaveUp = errors.New("targets could not be fenced")

type helper struct {
	config HelperConfig
	armed  map[Target]time.Duration
	busy   map[Target]bool
	retry  map[Target]time.Duration
	// lead is how long before a deadline it is fenced; trouble the backstop's last.
	lead    time.Duration
	trouble string
	// told: somebody has said what is armed. Until then the backstop stays as an earlier
	// helper left it: that one may have been guarding more than nothing.
	told bool
	// succeeded: a successor guards, and the backstop is its own.
	succeeded bool
	// unanswered are orders that were obeyed; hold is that they wait for the backstop, until
	// answerBy at the latest.
	unanswered []uint64
	answerBy   time.Duration
	hold       bool

	orders   chan order
	fenced   chan fenceResult
	handover chan handover
}

type fenceResult struct {
	target Target
	err    error
}

// handover is a successor's request: list takes what is armed, taken is closed
// when the successor has confirmed.
type handover struct {
	list  chan []Armed
	taken chan struct{}
}

// RunDeadman is the dead-man: it fences each target at its deadline unless a
// later one arrives before. It first takes over from an earlier helper in Dir.
// It returns nil when In has ended and nothing is armed, or a successor took
// over; the goroutine that reads In ends with In.
func RunDeadman(ctx context.Context, config HelperConfig) error {
	if config.Clock == nil {
		config.Clock = BootTime
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Patience == 0 {
		config.Patience = takeoverPatience
	}
	h := &helper{
		config: config, armed: map[Target]time.Duration{}, busy: map[Target]bool{}, retry: map[Target]time.Duration{},
		orders: make(chan order), fenced: make(chan fenceResult, 1), handover: make(chan handover),
	}
	if config.Backstop != nil {
		h.lead = config.Backstop.Lead()
		defer func() { config.Backstop.Leave(h.told && len(h.armed) == 0 && !h.succeeded) }()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// At once: the agent's first order names all its shares, which may be more than the pipe
	// holds, and it waits for no more than its own patience. What was read is obeyed by the
	// loop, after what is inherited, so that an order to forget finds it.
	go h.read(ctx)
	if config.Dir != "" {
		if inherited := inherit(ctx, config.Dir, config.Patience, config.Logger); len(inherited) > 0 {
			h.raise(inherited)
			h.told = true
			// For the helper after this one, should this one not be there to be asked.
			h.answer(answer{Armed: inherited})
		}
		stop, err := h.listen(ctx)
		if err != nil {
			// Without the socket a successor cannot take over; this one still guards.
			config.Logger.Error("dead-man cannot be taken over", "err", err)
		} else {
			defer stop()
		}
	}
	return h.loop(ctx)
}

// read passes on orders until In ends.
func (h *helper) read(ctx context.Context) {
	defer close(h.orders)
	scanner := lines(h.config.In)
	for scanner.Scan() {
		o, err := decodeOrder(scanner.Bytes())
		if err != nil {
			h.config.Logger.Error("dead-man ignores an order", "err", err)
			continue
		}
		select {
		case h.orders <- o:
		case <-ctx.Done():
			return
		}
	}
	if err := scanner.Err(); err != nil {
		h.config.Logger.Error("dead-man lost its agent", "err", err)
	}
}

func (h *helper) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var taken chan struct{}
	orders := h.orders
	for {
		timer.Reset(min(h.fenceExpired(ctx), h.back()))
		h.confirm()
		if orders == nil && len(h.armed) == 0 && len(h.busy) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case o, open := <-orders:
			if !open {
				orders = nil
				h.config.Logger.Info("dead-man lost its agent", "armed", len(h.armed))
				break
			}
			h.obey(o)
		case r := <-h.fenced:
			h.settle(r)
		case next := <-h.handover:
			taken = next.taken
			next.list <- h.list()
		case <-taken:
			h.succeeded = true
			return nil
		}
		if orders == nil && h.hopeless() {
			return errGaveUp
		}
	}
}

// back tells the backstop how things stand, and the agent when that went wrong or is
// well again. It returns when to tell it next.
func (h *helper) back() time.Duration {
	if h.config.Backstop == nil || !h.told {
		return time.Hour
	}
	var first, last time.Duration
	for _, deadline := range h.armed {
		if first == 0 || deadline < first {
			first = deadline
		}
		last = max(last, deadline)
	}
	now := h.config.Clock()
	pause, err := h.config.Backstop.Guard(now, first, last, len(h.armed) > 0)
	h.hold = errors.Is(err, errNotYet) && now < h.answerBy
	if errors.Is(err, errNotYet) && (h.hold || len(h.unanswered) == 0) {
		return pause
	}
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	if trouble != h.trouble {
		h.trouble = trouble
		h.config.Logger.Warn("what backs the dead-man changed", "trouble", trouble)
		h.answer(answer{Backed: &backed{Trouble: trouble}})
	}
	if pause <= 0 {
		return time.Hour
	}
	return pause
}

// obey does what is asked. It is confirmed when the backstop knows: the agent may serve then,
// and be stopped together with this helper at once.
func (h *helper) obey(o order) {
	h.told = true
	if len(h.unanswered) == 0 {
		h.answerBy = h.config.Clock() + answerWithin
	}
	h.unanswered = append(h.unanswered, o.Sequence)
	h.raise(o.Arm)
	for _, t := range o.Forget {
		delete(h.armed, t)
		delete(h.retry, t)
	}
}

func (h *helper) confirm() {
	if h.hold {
		return
	}
	for _, sequence := range h.unanswered {
		h.answer(answer{Sequence: sequence})
	}
	h.unanswered = h.unanswered[:0]
}

// raise takes later deadlines only: an order that was overtaken shortens nothing. What
// fails at a later one is told again, since the agent has served in between.
func (h *helper) raise(armed []Armed) {
	for _, a := range armed {
		if a.Deadline > h.armed[a.Target] {
			delete(h.retry, a.Target)
		}
		h.armed[a.Target] = max(h.armed[a.Target], a.Deadline)
	}
}

func (h *helper) list() []Armed {
	all := make([]Armed, 0, len(h.armed))
	for t, d := range h.armed {
		all = append(all, Armed{Target: t, Deadline: d})
	}
	return all
}

// fenceExpired starts what is due, each on its own so that one hung pool delays
// no other, and returns how long to wait for the next.
func (h *helper) fenceExpired(ctx context.Context) time.Duration {
	now, wait := h.config.Clock(), helperLook
	if len(h.armed) == 0 {
		return time.Hour
	}
	for t, deadline := range h.armed {
		due := max(deadline-h.lead, h.retry[t])
		switch {
		case h.busy[t]:
		case due <= now:
			h.busy[t] = true
			go h.fence(ctx, t)
		default:
			wait = min(wait, due-now)
		}
	}
	return wait
}

func (h *helper) fence(ctx context.Context, t Target) {
	err := h.config.Fence(t)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	select {
	case h.fenced <- fenceResult{t, err}:
	case <-ctx.Done():
	}
}

// settle forgets a fenced target, unless a later deadline arrived while it was
// being fenced: then the agent has it again and will find it unmounted.
func (h *helper) settle(r fenceResult) {
	delete(h.busy, r.target)
	if r.err != nil {
		if h.retry[r.target] == 0 {
			h.config.Logger.Error("dead-man could not fence", "dataset", r.target.Dataset, "err", r.err)
			h.answer(answer{Fenced: &r.target, Error: r.err.Error()})
		}
		h.retry[r.target] = h.config.Clock() + fenceRetry
		return
	}
	delete(h.retry, r.target)
	if h.armed[r.target]-h.lead <= h.config.Clock() {
		delete(h.armed, r.target)
	}
	h.config.Logger.Warn("dead-man fenced at the end of the lease", "dataset", r.target.Dataset)
	h.answer(answer{Fenced: &r.target})
}

func (h *helper) hopeless() bool {
	now := h.config.Clock()
	for _, deadline := range h.armed {
		if now-deadline < fenceGiveUp {
			return false
		}
	}
	return len(h.armed) > 0
}

// answer may find the agent gone; that is what the helper is for.
func (h *helper) answer(a answer) {
	if err := writeLine(h.config.Out, a); err != nil {
		h.config.Logger.Debug("dead-man has nobody to answer", "err", err)
	}
}
