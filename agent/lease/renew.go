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

// renew makes one request and takes up its answer. The lease counts from before
// the request leaves, so that a slow network only ever shortens it.
func (k *Keeper) renew(ctx context.Context) error {
	req, asked, sent := k.request()
	if len(asked) == 0 {
		return nil
	}
	resp, err := k.ask(ctx, req)
	if err != nil {
		k.config.Renewed("failed")
		return err
	}
	if resp.GetNonce() != req.GetNonce() {
		k.config.Renewed("stale")
		return errStale
	}
	until := sent + resp.GetDuration().AsDuration()
	k.revoke(resp.GetRevoked(), asked)
	granted := matching(resp.GetGranted(), asked)
	if err := k.arm(ctx, granted, until); err != nil {
		k.config.Renewed("unguarded")
		return errors.Join(errUnguarded, err)
	}
	k.take(granted, sent, until)
	if len(granted) < len(asked) {
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

// request lists what is wanted under a new nonce, and the instant before sending.
func (k *Keeper) request() (*tarnv1.RenewLeaseRequest, map[string]Share, time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.released {
		return nil, nil, 0
	}
	k.nonce++
	req := &tarnv1.RenewLeaseRequest{HostId: k.config.HostID, SessionId: k.config.SessionID, Nonce: k.nonce}
	asked := make(map[string]Share, len(k.wanted))
	for id, s := range k.wanted {
		asked[id] = s
		req.Shares = append(req.Shares, &tarnv1.LeaseShare{ShareId: s.ShareID, ReplicaId: id, Epoch: s.Epoch})
	}
	return req, asked, k.config.Clock()
}

// matching are the granted shares that were asked for, under exactly that epoch.
func matching(granted []*tarnv1.LeaseShare, asked map[string]Share) []Share {
	var found []Share
	seen := map[string]bool{}
	for _, g := range granted {
		s, ok := asked[g.GetReplicaId()]
		if ok && !seen[s.ReplicaID] && g.GetShareId() == s.ShareID && g.GetEpoch() == s.Epoch {
			seen[s.ReplicaID] = true
			found = append(found, s)
		}
	}
	return found
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

// take records granted shares that are still wanted as they were asked for.
func (k *Keeper) take(shares []Share, sent, until time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range shares {
		if k.wanted[s.ReplicaID] == s {
			k.grants[s.ReplicaID] = grant{share: s, sent: sent, until: until}
		}
	}
	k.announce()
}

// revoke ends rights that the leader says are over, unless the assignment has
// meanwhile moved on to another epoch.
func (k *Keeper) revoke(revoked []*tarnv1.LeaseShare, asked map[string]Share) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range revoked {
		s, ok := asked[r.GetReplicaId()]
		if g, held := k.grants[r.GetReplicaId()]; ok && held && g.share == s {
			delete(k.grants, s.ReplicaID)
		}
	}
	k.announce()
}
