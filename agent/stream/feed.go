package stream

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Seen is what a source last said about its newest snapshot.
type Seen struct {
	Epoch   uint64
	GUID    zfs.GUID
	Created time.Time // by the source's clock; for display
	// AsOf is the latest instant at which the source's live data are known to
	// have been equal to the snapshot, on this host's monotonic clock. Zero: never.
	AsOf  time.Time
	Dirty int64 // bytes written since; -1 unknown
}

// FeedConfig of a Feed; both are required.
type FeedConfig struct {
	Client *Client
	Logger *slog.Logger
}

// Feed keeps one long poll per source host, for all shares that are followed
// there. Safe for concurrent use.
type Feed struct {
	cfg FeedConfig

	mu    sync.Mutex
	hosts map[string]*hostFeed
	wake  chan struct{} // a host without a poll may be there
}

type hostFeed struct {
	source    *tarnv1.Source
	followers map[string]map[*Following]struct{} // by source replica
	running   bool
	rtt       time.Duration // of the last poll, what the source held it taken off; 0 unknown
	// fresh: somebody joined since the last question, so the next one asks for everything.
	fresh bool
}

// Following is one interest in one source replica.
type Following struct {
	feed    *Feed
	host    string
	replica string
	notify  func()

	mu   sync.Mutex
	seen Seen
	ok   bool
}

// NewFeed checks cfg; Run does the work.
func NewFeed(cfg FeedConfig) (*Feed, error) {
	if cfg.Client == nil || cfg.Logger == nil {
		return nil, fmt.Errorf("feed needs client and logger: %w", zfs.ErrInvalid)
	}
	return &Feed{cfg: cfg, hosts: map[string]*hostFeed{}, wake: make(chan struct{}, 1)}, nil
}

// Follow begins to watch a source replica. notify is called, without any lock,
// after each answer that tells a new snapshot; it must not block.
func (f *Feed) Follow(src *tarnv1.Source, notify func()) *Following {
	fo := &Following{feed: f, host: src.GetHostId(), replica: src.GetReplicaId(), notify: notify}
	f.mu.Lock()
	h, ok := f.hosts[fo.host]
	if !ok {
		h = &hostFeed{followers: map[string]map[*Following]struct{}{}}
		f.hosts[fo.host] = h
	}
	h.source = proto.CloneOf(src)
	if h.followers[fo.replica] == nil {
		h.followers[fo.replica] = map[*Following]struct{}{}
	}
	h.followers[fo.replica][fo] = struct{}{}
	h.fresh = true
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return fo
}

// RoundTrips gives, for each host that is polled, the time that the last poll
// spent on the way: the network and both hosts' work, not the wait for news.
func (f *Feed) RoundTrips() map[string]time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make(map[string]time.Duration, len(f.hosts))
	for id, h := range f.hosts {
		if h.rtt > 0 {
			all[id] = h.rtt
		}
	}
	return all
}

// Stop ends the interest.
func (fo *Following) Stop() {
	f := fo.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.hosts[fo.host]
	if h == nil {
		return
	}
	delete(h.followers[fo.replica], fo)
	if len(h.followers[fo.replica]) == 0 {
		delete(h.followers, fo.replica)
	}
}

// Seen is the last word of the source; ok is false when there is none, or when
// the source stopped serving this replica.
func (fo *Following) Seen() (s Seen, ok bool) {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	return fo.seen, fo.ok
}

// Run polls until ctx ends, which is the only error it returns.
func (f *Feed) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for {
		select {
		case <-f.wake:
			for _, host := range f.idle() {
				g.Go(func() error { f.follow(ctx, host); return nil })
			}
		case <-ctx.Done():
			_ = g.Wait()
			return ctx.Err()
		}
	}
}

// idle claims the hosts that nobody polls yet.
func (f *Feed) idle() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var hosts []string
	for id, h := range f.hosts {
		if !h.running {
			h.running = true
			hosts = append(hosts, id)
		}
	}
	return hosts
}

// follow polls one host until nobody is interested any more.
func (f *Feed) follow(ctx context.Context, host string) {
	req := headsBody{MaxWait: maxPollWait.Milliseconds()}
	failures := 0
	for ctx.Err() == nil {
		src, fresh, ok := f.wanted(host)
		if !ok {
			return
		}
		if fresh {
			req.Boot, req.Since = 0, 0
		}
		begun := time.Now()
		a, err := f.cfg.Client.poll(ctx, src, req)
		if err != nil {
			failures++
			req.Boot = 0
			f.cfg.Logger.Debug("poll heads", "host", host, "err", err)
			pause(ctx, failures)
			continue
		}
		failures = 0
		f.tell(host, a, begun, time.Now())
		req.Boot, req.Since = a.Boot, a.Generation
	}
}

// pause waits 100 ms doubled per failure, up to 5 s, half of it by chance.
func pause(ctx context.Context, failures int) {
	d := min(100*time.Millisecond<<min(failures-1, 6), 5*time.Second)
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (f *Feed) wanted(host string) (src *tarnv1.Source, fresh, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.hosts[host]
	if len(h.followers) == 0 {
		delete(f.hosts, host)
		return nil, false, false
	}
	fresh, h.fresh = h.fresh, false
	return h.source, fresh, true
}

// tell hands an answer to the followers. The part of the round trip that the
// source did not hold the request is added to every age.
func (f *Feed) tell(host string, a headsAnswer, begun, now time.Time) {
	rest := max(0, now.Sub(begun)-time.Duration(a.Held))
	told := make(map[string]Seen, len(a.Heads))
	for _, h := range a.Heads {
		s := Seen{Epoch: h.Epoch, GUID: h.GUID, Created: h.Created, Dirty: h.Dirty}
		if h.Age >= 0 {
			s.AsOf = now.Add(-time.Duration(h.Age) - rest)
		}
		told[h.Replica] = s
	}
	var common time.Time
	if a.CommonAge >= 0 {
		common = now.Add(-time.Duration(a.CommonAge) - rest)
	}
	f.travelled(host, rest)
	for _, fo := range f.of(host) {
		s, listed := told[fo.replica]
		if fo.update(s, listed, a.Full, common) {
			fo.notify()
		}
	}
}

func (f *Feed) travelled(host string, rtt time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h := f.hosts[host]; h != nil {
		h.rtt = rtt
	}
}

func (f *Feed) of(host string) []*Following {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []*Following
	if h := f.hosts[host]; h != nil {
		for _, set := range h.followers {
			for fo := range set {
				list = append(list, fo)
			}
		}
	}
	return list
}

// update takes in one answer and reports if there is a new snapshot to pull.
func (fo *Following) update(s Seen, listed, full bool, common time.Time) bool {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	switch {
	case listed:
		news := !fo.ok || fo.seen.GUID != s.GUID || fo.seen.Epoch != s.Epoch
		if !news && s.AsOf.Before(fo.seen.AsOf) {
			s.AsOf = fo.seen.AsOf // what was known once stays known
		}
		fo.seen, fo.ok = s, true
		return news
	case full:
		fo.ok = false
	case fo.ok && !common.IsZero():
		fo.seen.Dirty = 0
		if common.After(fo.seen.AsOf) {
			fo.seen.AsOf = common
		}
	}
	return false
}
