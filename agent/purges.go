package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// purgeAgain is how long a purge that something stands in the way of is left alone.
const purgeAgain = 30 * time.Second

// purges carries out the orders to destroy divergent copies, and tells how that went
// until the control plane has taken them back. Safe for concurrent use.
type purges struct {
	// do destroys one copy; nil means that nothing of it is left.
	do func(context.Context, *tarnv1.PurgeOrder) error
	// tried counts tries by their result.
	tried func(result string)
	// told is called when there is something new to report.
	told func()
	log  *slog.Logger
	kick chan struct{}

	mu     sync.Mutex
	orders []*tarnv1.PurgeOrder
	went   map[uint64]*tarnv1.PurgeReport // by GUID
}

func newPurges(do func(context.Context, *tarnv1.PurgeOrder) error, tried func(string), told func(), log *slog.Logger) *purges {
	return &purges{do: do, tried: tried, told: told, log: log, kick: make(chan struct{}, 1), went: map[uint64]*tarnv1.PurgeReport{}}
}

// want takes the orders that stand now.
func (p *purges) want(orders []*tarnv1.PurgeOrder) {
	p.mu.Lock()
	p.orders = orders
	for guid := range p.went {
		if !slices.ContainsFunc(orders, func(o *tarnv1.PurgeOrder) bool { return o.GetGuid() == guid }) {
			delete(p.went, guid)
		}
	}
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// reports tells how each order that stands went; none for those not yet tried.
func (p *purges) reports() []*tarnv1.PurgeReport {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*tarnv1.PurgeReport
	for _, o := range p.orders {
		if r := p.went[o.GetGuid()]; r != nil {
			list = append(list, r)
		}
	}
	return list
}

// run carries out orders until ctx ends.
func (p *purges) run(ctx context.Context) error {
	timer := time.NewTimer(purgeAgain)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.kick:
		case <-timer.C:
		}
		for _, o := range p.open() {
			p.note(ctx, o, p.do(ctx, o))
		}
		timer.Reset(purgeAgain)
	}
}

// open are the orders that are not known to be carried out.
func (p *purges) open() []*tarnv1.PurgeOrder {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*tarnv1.PurgeOrder
	for _, o := range p.orders {
		if !p.went[o.GetGuid()].GetGone() {
			list = append(list, o)
		}
	}
	return list
}

// note remembers the outcome of one try.
func (p *purges) note(ctx context.Context, o *tarnv1.PurgeOrder, err error) {
	if ctx.Err() != nil {
		return // nobody knows
	}
	r := &tarnv1.PurgeReport{Guid: o.GetGuid(), Gone: err == nil}
	if err != nil {
		p.tried("failed")
		r.Error = err.Error()
		p.log.Warn("divergent copy could not be purged", "guid", o.GetGuid(), "dataset", o.GetDataset(), "err", err)
	} else {
		p.tried("ok")
		p.log.Warn("divergent copy purged", "guid", o.GetGuid(), "dataset", o.GetDataset(), "by", o.GetRequestedBy(),
			"at", o.GetRequestedAt().AsTime(), "reason", o.GetReason())
	}
	p.mu.Lock()
	p.went[o.GetGuid()] = r
	p.mu.Unlock()
	p.told()
}
