package dirzfs

import (
	"fmt"
	"reflect"

	"tarn/zfs/dirzfs/internal/tree"
)

// differ enumerates what the tree to has and the tree from lacks, children before
// parents, each once, in an order that only the two roots decide: a resumed stream
// relies on that.
type differ struct {
	from, to tree.Getter
	have     map[tree.Hash]struct{} // in from, or emitted
	object   func(h tree.Hash, payload []byte) error
	chunk    func(h tree.Hash, length int) error
	check    func(h tree.Hash, length int) error // of every chunk of a changed file; may be nil
}

func newDiffer(from, to tree.Getter) *differ {
	return &differ{from: from, to: to, have: map[tree.Hash]struct{}{}}
}

// learn notes all of from that could be missed in to: what is there under another
// name is not sent again. It reads no chunks.
func (d *differ) learn(from, to tree.Hash) error {
	if from.IsZero() || from == to {
		return nil
	}
	f, err := tree.Root(from, d.from)
	if err != nil {
		return err
	}
	t, err := tree.Root(to, d.to)
	if err != nil {
		return err
	}
	d.add(from)
	return d.learnDir(f.Child, t.Child)
}

func (d *differ) add(h tree.Hash) bool {
	if h.IsZero() {
		return false
	}
	if _, ok := d.have[h]; ok {
		return false
	}
	d.have[h] = struct{}{}
	return true
}

// learnDir looks only into directories that differ. The zero hash of to stands
// for a directory that is gone.
func (d *differ) learnDir(from, to tree.Hash) error {
	if from == to || !d.add(from) {
		return nil
	}
	if err := d.learnSegments(from); err != nil {
		return err
	}
	want, err := byName(to, d.to)
	if err != nil {
		return err
	}
	list, err := tree.ReadDir(from, d.from)
	if err != nil {
		return err
	}
	for i := range list {
		if err := d.learnEntry(&list[i], want[list[i].Name]); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) learnSegments(dir tree.Hash) error {
	payload, err := d.from(dir)
	if err != nil {
		return err
	}
	segments, err := tree.DecodeDir(payload)
	for _, s := range segments {
		d.add(s)
	}
	return err
}

func (d *differ) learnEntry(e, want *tree.Entry) error {
	if want != nil && reflect.DeepEqual(*e, *want) {
		return nil // never looked at again, unless it is elsewhere too
	}
	if e.Kind == tree.Dir {
		var child tree.Hash
		if want != nil && want.Kind == tree.Dir {
			child = want.Child
		}
		return d.learnDir(e.Child, child)
	}
	if e.Kind != tree.File {
		return nil
	}
	err := e.Runs(d.from, func(run tree.Run) error {
		if run.Hole {
			return nil
		}
		for _, r := range run.Refs {
			d.add(r.Hash)
		}
		return nil
	})
	for _, l := range e.Lists {
		d.add(l)
	}
	return err
}

func byName(dir tree.Hash, get tree.Getter) (map[string]*tree.Entry, error) {
	list, err := tree.ReadDir(dir, get)
	m := make(map[string]*tree.Entry, len(list))
	for i := range list {
		m[list[i].Name] = &list[i]
	}
	return m, err
}

// emit calls object and chunk for everything new in to, the root last.
func (d *differ) emit(from, to tree.Hash) error {
	if from == to {
		return nil
	}
	var f tree.Entry
	if !from.IsZero() {
		e, err := tree.Root(from, d.from)
		if err != nil {
			return err
		}
		f = e
	}
	t, err := tree.Root(to, d.to)
	if err != nil {
		return err
	}
	if err := d.emitDir(f.Child, t.Child); err != nil {
		return err
	}
	return d.emitObject(to)
}

func (d *differ) emitObject(h tree.Hash) error {
	if !d.add(h) {
		return nil
	}
	payload, err := d.to(h)
	if err != nil {
		return err
	}
	return d.object(h, payload)
}

func (d *differ) emitDir(from, to tree.Hash) error {
	if _, ok := d.have[to]; ok || from == to {
		return nil
	}
	old, err := byName(from, d.from)
	if err != nil {
		return err
	}
	list, err := tree.ReadDir(to, d.to)
	if err != nil {
		return err
	}
	for i := range list {
		if err := d.emitEntry(&list[i], old[list[i].Name]); err != nil {
			return fmt.Errorf("%q: %w", list[i].Name, err)
		}
	}
	payload, err := d.to(to)
	if err != nil {
		return err
	}
	segments, err := tree.DecodeDir(payload)
	if err != nil {
		return err
	}
	for _, s := range segments {
		if err := d.emitObject(s); err != nil {
			return err
		}
	}
	return d.emitObject(to)
}

func (d *differ) emitEntry(e, old *tree.Entry) error {
	switch {
	case old != nil && reflect.DeepEqual(*e, *old):
		return nil
	case e.Kind == tree.Dir:
		var child tree.Hash
		if old != nil && old.Kind == tree.Dir {
			child = old.Child
		}
		return d.emitDir(child, e.Child)
	case e.Kind == tree.File:
		return d.emitFile(e)
	}
	return nil
}

func (d *differ) emitFile(e *tree.Entry) error {
	err := e.Runs(d.to, func(run tree.Run) error { return d.emitRun(e.Size, run) })
	if err != nil {
		return err
	}
	for _, l := range e.Lists {
		if err := d.emitObject(l); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) emitRun(size int64, run tree.Run) error {
	if run.Hole {
		return nil
	}
	for i, r := range run.Refs {
		if r.Hash.IsZero() {
			continue
		}
		length := tree.ChunkLen(size, run.First+i)
		if d.check != nil {
			if err := d.check(r.Hash, length); err != nil {
				return err
			}
		}
		if !d.add(r.Hash) {
			continue
		}
		if err := d.chunk(r.Hash, length); err != nil {
			return err
		}
	}
	return nil
}

// measure counts what emit would give: items, and bytes of chunks and objects.
func (d *differ) measure(from, to tree.Hash) (items, bytes int64, err error) {
	d.object = func(_ tree.Hash, payload []byte) error {
		items, bytes = items+1, bytes+int64(len(payload))
		return nil
	}
	d.chunk = func(_ tree.Hash, length int) error {
		items, bytes = items+1, bytes+int64(length)
		return nil
	}
	if err := d.learn(from, to); err != nil {
		return 0, 0, err
	}
	err = d.emit(from, to)
	return items, bytes, err
}

// difference is the bytes by which the tree to differs from the tree from.
func (p *pool) difference(from, to tree.Hash, getTo tree.Getter) (int64, error) {
	_, n, err := newDiffer(p.store.Object, getTo).measure(from, to)
	return n, err
}
