package lease

import (
	"context"
	"errors"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// renewals asks every Every, and at once when kicked, one request at a time.
func (k *Keeper) renewals(ctx context.Context) error {
	timer := time.NewTimer(k.config.Every)
	defer timer.Stop()
	failing := false
	for {
		k.config.Beat(BeatRenewals)
		select {
		case <-ctx.Done():
			return nil
		case <-k.kick:
		case <-timer.C:
		}
		started := k.config.Clock()
		err := k.renew(ctx)
		if ctx.Err() != nil {
			return nil
		}
		failing = k.tell(err, failing)
		timer.Reset(max(k.config.Every-(k.config.Clock()-started), shortest/5))
	}
}

// tell logs the first of a row of failures and the recovery.
func (k *Keeper) tell(err error, failing bool) bool {
	if err != nil && !failing {
		k.config.Logger.Warn("lease was not renewed", "err", err)
	}
	if err == nil && failing {
		k.config.Logger.Info("lease is renewed again")
	}
	return err != nil
}

var (
	errStale     = errors.New("answer carries another nonce")
	errUnguarded = errors.New("dead-man did not confirm the new deadline")
)

// renew makes one request and takes up its answer. A host that wants nothing asks too: of
// its copies' reports, too, only one may count.
func (k *Keeper) renew(ctx context.Context) error {
	asked, token, ok := k.request()
	if !ok {
		return nil
	}
	resp, err := k.ask(ctx, k.message(asked, token))
	if len(asked.Shares) == 0 && err != nil {
		return nil // nothing was lost by it
	}
	if err != nil {
		k.config.Renewed("failed")
		return err
	}
	granted, until, err := asked.Judge(resp)
	if err != nil {
		k.config.Renewed("stale")
		return err
	}
	if k.single(resp); len(asked.Shares) == 0 || resp.GetAnotherLife() {
		return nil
	}
	k.revoke(resp.GetRevoked(), asked)
	if err := k.arm(ctx, granted, until); err != nil {
		k.config.Renewed("unguarded")
		return errors.Join(errUnguarded, err)
	}
	k.take(granted, asked, until)
	if len(granted) < len(asked.Shares) {
		k.config.Renewed("partial")
		return nil
	}
	k.config.Renewed("renewed")
	return nil
}

func (k *Keeper) ask(ctx context.Context, req *tarnv1.RenewLeaseRequest) (*tarnv1.RenewLeaseResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*k.config.Every)
	defer cancel()
	return k.config.Renewer.RenewLease(ctx, req)
}

// single keeps the token of the answer that was waited for; no other may count, or the
// leader takes this agent for another one. When it does, everything is given up.
func (k *Keeper) single(resp *tarnv1.RenewLeaseResponse) {
	if resp.GetAnotherLife() {
		k.Release()
		k.config.Renewed("another_life")
		k.config.AnotherLife()
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if token := resp.GetToken(); len(token) > 0 { // a leader of an older release has none
		k.token = token
	}
}

// request lists what is wanted under a new nonce, and the token to echo; false before the
// first Want and after Release.
func (k *Keeper) request() (asked Asked, token []byte, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.rights.released || !k.heard {
		return Asked{}, nil, false
	}
	k.nonce++
	return k.rights.Ask(k.nonce, k.config.Clock()), k.token, true
}

func (k *Keeper) message(asked Asked, token []byte) *tarnv1.RenewLeaseRequest {
	req := &tarnv1.RenewLeaseRequest{HostId: k.config.HostID, SessionId: k.config.SessionID, Nonce: asked.Nonce, Echo: token}
	for id, s := range asked.Shares {
		req.Shares = append(req.Shares, &tarnv1.LeaseShare{ShareId: s.ShareID, ReplicaId: id, Epoch: s.Epoch})
	}
	return req
}

// arm has the guard confirm the new end before anybody may rely on the lease.
func (k *Keeper) arm(ctx context.Context, shares []Share, until time.Duration) error {
	if k.config.Guard == nil || len(shares) == 0 {
		return nil
	}
	armed := make([]Armed, len(shares))
	for i, s := range shares {
		armed[i] = Armed{Target: s.Target, Deadline: until}
	}
	ctx, cancel := context.WithTimeout(ctx, k.config.Margin)
	defer cancel()
	return k.config.Guard.Arm(ctx, armed)
}

func (k *Keeper) take(granted []Share, asked Asked, until time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rights.Take(granted, asked, until)
	k.announce()
}

func (k *Keeper) revoke(revoked []*tarnv1.LeaseShare, asked Asked) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rights.Revoke(revoked, asked)
	k.announce()
}
