package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// running is a pull in the background.
type running struct {
	cancel  context.CancelFunc
	done    chan pullResult // buffered: the goroutine never waits
	staging bool
}

type pullResult struct {
	step  stream.Step
	begun time.Time
	bytes int64
	// After a receive: got is the snapshot that arrived, or versions are all of the target.
	got      zfs.Version
	versions []zfs.Version
	err      error
	staging  bool
}

// startPull asks the source for the next step in the background, so that exports
// and reports go on during a long stream.
func (w *Worker) startPull(ctx context.Context, a action) error {
	staging := a.kind == doPullStaging
	target := w.l.dataset()
	if staging {
		target = w.l.staging()
		if err := w.parent(ctx, w.l.root()+"/"+stagingDir); err != nil {
			return fmt.Errorf("make staging area: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	w.pull = &running{cancel: cancel, done: make(chan pullResult, 1), staging: staging}
	w.s.pulling, w.s.wantPull = true, false
	req, done, raw := w.request(a), w.pull.done, w.s.a.GetEncrypted()
	var known []zfs.Version
	if !staging {
		known = w.s.f.versions
	}
	go func() {
		r := w.transfer(ctx, req, target, raw, known)
		r.staging = staging
		done <- r
	}()
	return nil
}

func (w *Worker) request(a action) stream.Request {
	s, f := w.s.a, &w.s.f
	req := stream.Request{
		Source: s.GetSource(), Share: s.GetShareId(), Replica: s.GetReplicaId(), Epoch: s.GetEpoch(),
		RateLimit: s.GetOptions().GetRateLimit(), Want: a.want, Can: w.cfg.Can,
	}
	if a.want != 0 {
		req.Source, req.Share = s.GetCloneSource().GetSource(), s.GetCloneSource().GetShareId()
	}
	if a.kind == doPullStaging {
		if f.staging != nil {
			req.Token, req.Flags = f.staging.ResumeToken, local(*f.staging, markFlags)
		}
		return req
	}
	req.Have, req.Token, req.Flags = f.have(), f.ds.ResumeToken, f.flags()
	if req.Flags == "" {
		req.Flags = w.s.otherFlags
	}
	return req
}

// transfer does one step: ask, receive, verify that the GUID arrived. Known are the
// versions that the target had when it was looked at last.
func (w *Worker) transfer(ctx context.Context, req stream.Request, target string, raw bool, known []zfs.Version) (r pullResult) {
	r.begun = time.Now()
	var have []zfs.Version
	var err error
	if w.cfg.Lacks.ReceiveChecks && len(req.Have) > 0 {
		// Before the source starts its sender, which would wait for this.
		if have, err = w.present(ctx, target, known); err != nil {
			r.err = err
			return r
		}
	}
	p, err := w.cfg.Source.Pull(ctx, req)
	if err != nil {
		r.err = err
		return r
	}
	w.phase("plan", r.begun)
	r.step = p.Step
	if p.Step.UpToDate() {
		return r
	}
	w.mu.Lock()
	w.view.pull = p
	w.mu.Unlock()
	// The rate of a stream that takes hours is of interest before its end.
	p.Moved = func(n int) { w.hooks.Bytes(w.cfg.ShareID, w.cfg.ReplicaID, int64(n)) }
	received := time.Now()
	err = w.cfg.Engine.Receive(ctx, zfs.ReceiveRequest{
		Target: target + "@" + p.Step.ToName, Expect: p.Step.To, Raw: raw, Resumable: true, Properties: map[string]string{markFlags: p.Step.Flags}, Have: have,
	}, p)
	sent := finish(p, err)
	w.phase("receive", received)
	w.mu.Lock()
	w.view.pull = nil
	w.mu.Unlock()
	r.bytes = p.Bytes()
	return w.verify(ctx, target, r, known, err, sent)
}

// finish ends a pull and gives the sender's own result, if that matters: what stopped the
// receive by itself is told at once, whatever the source does.
func finish(p *stream.Pull, received error) error {
	if received != nil && !broken(received) {
		p.Close()
		return nil
	}
	return p.Finish()
}

// present are the versions of target: those known, if the newest is still there. A newer
// one that somebody else made is seen by zfs receive itself.
func (w *Worker) present(ctx context.Context, target string, known []zfs.Version) ([]zfs.Version, error) {
	f := facts{versions: known}
	if newest := f.newest(); newest.GUID != 0 {
		found, err := w.cfg.Engine.Named(ctx, target+"@"+newest.Name)
		if err == nil && found[0].GUID == newest.GUID {
			return known, nil
		}
	}
	have, err := w.cfg.Engine.Versions(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("list versions: %w", err)
	}
	return have, nil
}

// verify decides by the only thing that counts: the target has the snapshot.
// Of an increment that is asked by name, which costs the same however many snapshots
// there are.
func (w *Worker) verify(ctx context.Context, target string, r pullResult, known []zfs.Version, received, sent error) pullResult {
	begun := time.Now()
	defer func() { w.phase("verify", begun) }()
	if len(known) > 0 && received == nil && sent == nil {
		found, err := w.cfg.Engine.Named(ctx, target+"@"+r.step.ToName)
		if err == nil && found[0].GUID == r.step.To {
			r.got = found[0]
			return r
		}
	}
	versions, err := w.cfg.Engine.Versions(ctx, target)
	f := facts{versions: versions}
	if _, ok := f.holding(r.step.To); ok {
		r.versions = versions
		return r
	}
	switch {
	case received == nil && sent == nil && err == nil:
		r.err = fmt.Errorf("receive ended well but snapshot %s is not there: %w", r.step.To, zfs.ErrStreamCorrupt)
	case received == nil && sent == nil:
		r.err = fmt.Errorf("read received snapshot back: %w", err)
	case sent != nil && (received == nil || broken(received)):
		// Why the sender stopped says more than that the stream was short.
		r.err = sent
	default:
		r.err = fmt.Errorf("receive %s: %w", r.step.ToName, w.noRoom(ctx, target, received))
	}
	return r
}

// broken reports that a receive failed only because its stream did.
func broken(err error) bool {
	return errors.Is(err, zfs.ErrStreamTruncated) || errors.Is(err, stream.ErrUnreachable) ||
		errors.Is(err, stream.ErrStalled) || errors.Is(err, context.Canceled)
}

func (w *Worker) phase(name string, begun time.Time) { w.hooks.Phase(name, time.Since(begun)) }

// pullDone is the result of the running pull; nil blocks when none runs.
func (w *Worker) pullDone() <-chan pullResult {
	if w.pull == nil {
		return nil
	}
	return w.pull.done
}

// stopPull ends a running pull and waits for it. What arrived stays resumable.
func (w *Worker) stopPull() {
	if w.pull == nil {
		return
	}
	w.pull.cancel()
	<-w.pull.done
	w.pull, w.s.pulling, w.stale = nil, false, true
}

// pulled takes a result in.
func (w *Worker) pulled(r pullResult) {
	w.pull.cancel()
	w.pull, w.s.pulling, w.s.changedAt = nil, false, time.Now()
	w.count(r)
	if r.err != nil {
		w.pullFailed(r)
		return
	}
	delete(w.failures, doPull)
	delete(w.failures, doPullStaging)
	w.s.confirmed, w.s.flags, w.s.otherFlags = true, r.step.Flags, ""
	if r.staging {
		w.stale = true
	} else {
		w.took(r)
	}
	w.s.wantPull = w.s.wantPull || r.step.Behind > 1 || r.staging
	w.arrived(r)
	if !w.s.wantPull {
		w.s.caughtUp = true
		if !w.compare {
			w.resynced = w.s.a.GetResyncGeneration()
		}
	}
}

// took brings what is known of the dataset up to date after a receive.
func (w *Worker) took(r pullResult) {
	if w.s.f.ds == nil { // it was renamed away when it was looked at last, and has come back
		w.stale = true
		return
	}
	switch _, known := w.s.f.holding(r.got.GUID); {
	case r.versions != nil:
		w.s.f.versions = r.versions
	case r.got.GUID == 0:
		return
	case !known:
		w.s.f.versions = append(slices.Clip(w.s.f.versions), r.got)
	}
	w.s.f.ds.ResumeToken = ""
}

// arrived lets the lag follow a pull.
func (w *Worker) arrived(r pullResult) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view.clock.saw(r.step.To, stepAsOf(r.step, r.begun))
	w.view.behind = max(0, r.step.Behind-1)
}

func (w *Worker) count(r pullResult) {
	kind := r.step.Kind
	if kind == "" || r.step.UpToDate() {
		return
	}
	result := "ok"
	if r.err != nil {
		result = "retry"
	}
	w.hooks.Step(w.cfg.ShareID, w.cfg.ReplicaID, kind, result)
}

// pullFailed cures what can be cured at once and leaves the rest to a later try.
func (w *Worker) pullFailed(r pullResult) {
	w.s.wantPull, w.stale = true, true
	k := doPull
	if r.staging {
		k = doPullStaging
	}
	cured := w.cure(r)
	if cured && r.bytes > 0 {
		delete(w.failures, k) // it went on from where it was: a first failure again
	}
	w.failed(k, r.err)
	if cured && w.failures[k].count == 1 {
		w.failures[k].until = time.Time{}
	}
}

// largeBlocks turns -L over in flags that were a guess: what tool made a copy that was
// taken over, and how, nobody knows. "" when they were none.
func largeBlocks(flags string) string {
	f, err := zfs.ParseStreamFlags(flags)
	if err != nil || f.Raw {
		return ""
	}
	f.LargeBlocks = !f.LargeBlocks
	return f.String()
}

// cure notes what has to be done before the next try; true when that makes an
// immediate one worthwhile.
func (w *Worker) cure(r pullResult) bool {
	var d *stream.DivergedError
	switch {
	case errors.Is(r.err, zfs.ErrTokenInvalid), errors.Is(r.err, zfs.ErrBaseMissing):
		w.s.deadToken = w.s.token() || w.s.stagingToken()
		return w.s.deadToken
	case errors.As(r.err, &d) && !r.staging:
		w.s.diverged = &d.Common
		return true
	case errors.Is(r.err, stream.ErrNoCommon) && !r.staging:
		w.s.diverged = new(zfs.GUID)
		return true
	case errors.Is(r.err, zfs.ErrStreamFlags) && !r.staging && w.s.f.flags() == "" && w.s.otherFlags == "":
		w.s.otherFlags = largeBlocks(r.step.Flags)
		return w.s.otherFlags != ""
	case errors.Is(r.err, zfs.ErrStreamFlags) && !r.staging:
		w.s.otherFlags = "" // neither fits now; what is in the way may be mended, at either end
		return false
	case errors.Is(r.err, zfs.ErrModified) && !r.staging && w.s.a.GetRole() == tarnv1.Role_ROLE_SECONDARY:
		w.s.modified = true
		return true
	case errors.Is(r.err, zfs.ErrResumable), errors.Is(r.err, zfs.ErrStreamTruncated), errors.Is(r.err, stream.ErrUnreachable):
		return r.bytes > 0 && !w.cfg.Lacks.Resume // what arrived is a token now
	}
	return false
}
