package dirzfs

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"tarn/zfs/dirzfs/internal/tree"
)

// setMask clears the write bits of a dataset's files, or gives them back. The true
// modes are on record before the first one changes, so that either can be taken up
// again after a crash. The caller holds the head's lock.
func (p *pool) setMask(ctx context.Context, ds *datasetRec, on bool) error {
	if !on {
		if err := p.makeDurable(ds); err != nil || !ds.Masked {
			return err
		}
		return p.unmask(ctx, ds)
	}
	if ds.MaskDone {
		return nil
	}
	// A client may add files while the modes are collected: look again until all
	// directories are closed.
	for range 4 {
		n, err := p.recordModes(ctx, ds)
		if err != nil {
			return err
		}
		p.step("modes recorded")
		if err := p.eachNode(ctx, ds, maskNode); err != nil {
			return err
		}
		p.step("modes masked")
		if n == 0 {
			break
		}
	}
	ds.MaskDone = true
	return p.update(func(m meta) error { return m.putDataset(ds) })
}

// recordModes notes the modes of nodes that are not on record.
func (p *pool) recordModes(ctx context.Context, ds *datasetRec) (int, error) {
	modes := map[string]uint32{}
	err := p.eachNode(ctx, ds, func(v *nodeVisit) error {
		if !v.recorded {
			modes[v.path] = v.st.Mode & 0o7777
			if ds.Masked && v.known && modes[v.path] == liveMode(v.mode, os.Geteuid() == 0)&^0o222 {
				modes[v.path] = v.mode // masked before, and its mode is in the tree
			}
		}
		return nil
	})
	if err != nil || len(modes) == 0 && ds.Masked {
		return 0, err
	}
	ds.Masked = true
	return len(modes), p.update(func(m meta) error {
		b, err := ensureSubBucket(m.tx, bucketModes, ds.GUID)
		if err != nil {
			return err
		}
		for path, mode := range modes {
			if err := b.Put(modeKey(path), binary.BigEndian.AppendUint32(nil, mode)); err != nil {
				return err
			}
		}
		return m.putDataset(ds)
	})
}

func (p *pool) unmask(ctx context.Context, ds *datasetRec) error {
	if ds.MaskDone { // a cut leaves some without their write bits: neither state is whole
		ds.MaskDone = false
		if err := p.update(func(m meta) error { return m.putDataset(ds) }); err != nil {
			return err
		}
	}
	if err := p.eachNode(ctx, ds, unmaskNode); err != nil {
		return err
	}
	p.step("modes unmasked")
	ds.Masked, ds.MaskDone = false, false
	return p.update(func(m meta) error {
		return errors.Join(dropSubBucket(m.tx, bucketModes, ds.GUID), m.putDataset(ds))
	})
}

// recoverMasks makes readonly take effect where it was set and the crash came before the
// files: who finds a dataset mounted does not mount it again.
func (p *pool) recoverMasks() {
	var list []*datasetRec
	if err := p.view(func(m meta) (err error) { list, err = m.below(p.name); return err }); err != nil {
		p.log.Error("finish readonly", "err", err)
	}
	for _, ds := range list {
		if err := p.remaskOne(p.closing, ds); err != nil {
			p.log.Error("finish readonly", "dataset", ds.Name, "err", err)
		}
	}
}

// nodeVisit is one live node and what is known of it.
type nodeVisit struct {
	d        *dir
	name     string // "" for the top
	path     string
	st       unix.Stat_t
	mode     uint32 // the true one, if known
	recorded bool   // mode is from the record
	known    bool
}

func maskNode(v *nodeVisit) error {
	live := v.st.Mode & 0o7777
	if !v.recorded || live&0o222 == 0 {
		return nil
	}
	return v.d.chmod(v.name, live&^0o222)
}

func unmaskNode(v *nodeVisit) error {
	want := liveMode(v.mode, os.Geteuid() == 0)
	if live := v.st.Mode & 0o7777; !v.known || live == want || live&^0o200 != want&^0o222 {
		return nil // not ours, or changed by the superuser since
	}
	return v.d.chmod(v.name, want)
}

// eachNode visits all nodes but symlinks, parents first, and keeps the index true
// over what fn does to them.
func (p *pool) eachNode(ctx context.Context, ds *datasetRec, fn func(*nodeVisit) error) error {
	top, err := p.openHead(ds)
	if err != nil {
		return err
	}
	defer top.close()
	base, err := p.treeRoot(ds.At)
	if err != nil {
		return err
	}
	v := visitor{p: p, ds: ds, fn: fn}
	known, err := p.loadIndex(ds.GUID, "/")
	if err != nil {
		return err
	}
	if err := v.visit(ctx, top, "", base, known); err != nil {
		return err
	}
	if v.index.empty() {
		return nil
	}
	return p.update(func(m meta) error { return v.index.write(m.tx, ds.GUID) })
}

type visitor struct {
	p     *pool
	ds    *datasetRec
	fn    func(*nodeVisit) error
	index indexChange
}

func (v *visitor) visit(ctx context.Context, d *dir, name string, base *tree.Entry, index map[string]signature) error {
	st, err := d.stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	kind, ok := kindOf(&st)
	if err != nil || !ok || kind == tree.Symlink {
		return err
	}
	n := &nodeVisit{d: d, name: name, path: d.path(name), st: st}
	if err := v.lookUp(n, base); err != nil {
		return err
	}
	if err := v.fn(n); err != nil {
		return err
	}
	if err := v.refresh(n, index); err != nil || kind != tree.Dir {
		return err
	}
	if name == "" {
		return v.children(ctx, d, base)
	}
	sub, err := d.openDir(name)
	if err != nil {
		return err
	}
	defer sub.close()
	return v.children(ctx, sub, base)
}

func (v *visitor) lookUp(n *nodeVisit, base *tree.Entry) error {
	mode, ok, err := v.p.loadMode(v.ds.GUID, n.path)
	n.mode, n.recorded, n.known = mode, ok, ok
	if !ok && base != nil {
		n.mode, n.known = base.Mode, true
	}
	return err
}

// refresh carries a signature that was true over the change of mode.
func (v *visitor) refresh(n *nodeVisit, index map[string]signature) error {
	old, ok := index[n.name]
	if !ok || old != signatureOf(&n.st) {
		return nil
	}
	st, err := n.d.stat(n.name)
	if err != nil {
		return err
	}
	if s := signatureOf(&st); s != old && sameButCtime(s, old) {
		at := indexPlace(n.d, n.name)
		v.index.set(at[0], at[1], s)
	}
	return nil
}

func (v *visitor) children(ctx context.Context, d *dir, base *tree.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var entries map[string]*tree.Entry
	if base != nil && base.Kind == tree.Dir {
		var err error
		if entries, err = byName(base.Child, v.p.store.Object); err != nil {
			return err
		}
	}
	index, err := v.p.loadIndex(v.ds.GUID, d.rel)
	if err != nil {
		return err
	}
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := v.visit(ctx, d, n, entries[n], index); err != nil {
			return err
		}
	}
	return nil
}

// sameButCtime: a client that wrote meanwhile changed the time of the content too.
func sameButCtime(a, b signature) bool { return [24]byte(a[:24]) == [24]byte(b[:24]) }
