package dirzfs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
	"tarn/zfs/dirzfs/internal/wire"
)

// plan is what a SendRequest comes to.
type plan struct {
	p    *pool
	head streamHead
	txg  uint64 // of the snapshot sent
}

// plan finds the snapshots of a request and marks the one to send as in use.
// release ends that.
func (h *Host) plan(ctx context.Context, req zfs.SendRequest) (pl *plan, release func(), err error) {
	var token *tokenBody
	if req.ResumeToken != "" {
		if req.To != "" || req.From != "" {
			return nil, nil, fmt.Errorf("%w: a resume token comes alone", zfs.ErrInvalid)
		}
		t, err := parseToken(req.ResumeToken)
		if err != nil {
			return nil, nil, err
		}
		token, req = &t, zfs.SendRequest{Dataset: t.Head.Dataset, To: t.Head.Snapshot}
	}
	p, err := h.dataset(ctx, req.Dataset)
	if err == nil {
		_, _, err = zfs.ValidateSnapshot(req.Dataset + "@" + req.To)
	}
	if err == nil {
		pl = &plan{p: p}
		_, unlock, lockErr := p.lockHeads(ctx, req.Dataset)
		defer unlock()
		if err = lockErr; err == nil {
			err = p.view(func(m meta) error { return pl.find(m, req, token) })
		}
	}
	if err != nil {
		if token != nil && (errors.Is(err, zfs.ErrNotExist) || errors.Is(err, zfs.ErrBaseMissing)) {
			err = fmt.Errorf("%w: %v", zfs.ErrTokenInvalid, err) //nolint:errorlint // the inner class must not show
		}
		return nil, nil, err
	}
	p.busy.use(pl.txg, 1)
	return pl, func() { p.busy.use(pl.txg, -1) }, nil
}

func (pl *plan) find(m meta, req zfs.SendRequest, token *tokenBody) error {
	ds, to, err := m.toSend(req, token)
	if err != nil {
		return err
	}
	pl.txg = to.TXG
	pl.head = streamHead{Dataset: ds.Name, Snapshot: to.Name, To: to.GUID, ToRoot: to.Root, Creation: to.Creation}
	if token != nil {
		return pl.resume(m, ds, to, token.Head)
	}
	if req.From == "" {
		return nil
	}
	return pl.base(m, ds, to, req.From)
}

// toSend finds the snapshot to send: by its name, or by the GUID in a token, since it
// may have been renamed.
func (m meta) toSend(req zfs.SendRequest, token *tokenBody) (*datasetRec, *snapRec, error) {
	if token == nil {
		return m.namedSnapshot(req.Dataset + "@" + req.To)
	}
	ds, err := m.dataset(req.Dataset)
	if err != nil {
		return nil, nil, err
	}
	list, err := m.snapshots(ds.GUID)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range list {
		if s.GUID == token.Head.To {
			return ds, s, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: snapshot %v of %s", zfs.ErrNotExist, token.Head.To, ds.Name)
}

// base finds the incremental source: a snapshot or a bookmark of the dataset, or
// the origin of a clone.
func (pl *plan) base(m meta, ds *datasetRec, to *snapRec, from string) error {
	list, err := m.bases(ds)
	if err != nil {
		return err
	}
	for _, b := range list {
		if b.name != from {
			continue
		}
		if b.txg >= to.TXG {
			return fmt.Errorf("%w: %s is not earlier than @%s", zfs.ErrBaseMissing, from, to.Name)
		}
		pl.head.From, pl.head.FromRoot = b.guid, b.root
		return nil
	}
	if !strings.HasPrefix(from, "@") && !strings.HasPrefix(from, "#") {
		return fmt.Errorf("%w: incremental source %q must be @name or #name", zfs.ErrInvalid, from)
	}
	return fmt.Errorf("%w: %s%s", zfs.ErrBaseMissing, ds.Name, from)
}

// resume checks that a token's stream can be made again, bit for bit.
func (pl *plan) resume(m meta, ds *datasetRec, to *snapRec, t streamHead) error {
	if t.To != to.GUID || t.ToRoot != to.Root {
		return fmt.Errorf("%w: %s@%s is no longer the snapshot of the token", zfs.ErrTokenInvalid, ds.Name, to.Name)
	}
	pl.head.Skip = t.Skip
	if t.From == 0 {
		return nil
	}
	list, err := m.bases(ds)
	if err != nil {
		return err
	}
	for _, b := range list {
		if b.guid == t.From && b.root == t.FromRoot && b.txg < to.TXG {
			pl.head.From, pl.head.FromRoot = b.guid, b.root
			return nil
		}
	}
	return fmt.Errorf("%w: incremental source %v no longer exists", zfs.ErrTokenInvalid, t.From)
}

// base is a possible incremental source.
type base struct {
	name string // with @ or #
	guid zfs.GUID
	txg  uint64
	root tree.Hash
}

func (m meta) bases(ds *datasetRec) (list []base, err error) {
	snaps, err := m.snapshots(ds.GUID)
	if err != nil {
		return nil, err
	}
	for _, s := range snaps {
		list = append(list, base{"@" + s.Name, s.GUID, s.TXG, s.Root})
	}
	if ds.Origin != 0 {
		o, err := m.origin(ds.Origin)
		if err != nil {
			return nil, err
		}
		list = append(list, base{"@" + o.Name, o.GUID, o.TXG, o.Root})
	}
	marks, err := m.bookmarks(ds.GUID)
	for _, b := range marks {
		list = append(list, base{"#" + b.Name, b.GUID, b.TXG, b.Root})
	}
	return list, err
}

// Estimate is the size of the stream in bytes, exact but for its head.
func (h *Host) Estimate(ctx context.Context, req zfs.SendRequest) (int64, error) {
	pl, release, err := h.plan(ctx, req)
	if err != nil {
		return 0, fail("send", req.Dataset+"@"+req.To, err)
	}
	defer release()
	items, bytes, err := newDiffer(pl.p.store.Object, pl.p.store.Object).measure(pl.head.FromRoot, pl.head.ToRoot)
	if err != nil {
		return 0, fail("send", req.Dataset+"@"+req.To, err)
	}
	if pl.head.Skip > 0 && items > 0 { // what is left, assuming items of one size
		left := max(items-pl.head.Skip, 0)
		bytes, items = int64(float64(bytes)*float64(left)/float64(items)), left
	}
	return bytes + items*wire.Overhead, nil
}
