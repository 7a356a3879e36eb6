package raftfsm

import (
	"iter"

	"github.com/google/btree"
)

// degree of the trees: 63 records per node keeps them four levels deep at a
// million records, and a changed record copies about 2 KiB per index.
const degree = 32

// token says who may write a tree in place. Trees of a published state have a
// token that nobody holds any more, hence they never change again.
type token struct{ _ byte }

// order says if a comes before b under an index.
type order[T any] func(a, b *T) bool

// index is one order over a table. Records outside member are not in it.
type index[T any] struct {
	less   order[T]
	member func(*T) bool
}

// table is a set of records under several orders, the first of which is the
// primary key. It is immutable once published: a writer clones it in constant time and
// copies the nodes it touches.
//
// A radix tree with watch channels (go-memdb) needs 1,350 bytes per record and three indexes,
// these trees 56: with a million replicas that decides whether the state fits.
type table[T any] struct {
	owner   *token
	indexes []index[T]
	trees   []*btree.BTreeG[*T]
}

func newTable[T any](owner *token, indexes ...index[T]) *table[T] {
	t := &table[T]{owner: owner, indexes: indexes}
	for _, ix := range indexes {
		t.trees = append(t.trees, btree.NewG(degree, btree.LessFunc[*T](ix.less)))
	}
	return t
}

// mutable returns the table behind slot in a form that owner may write,
// replacing it by a clone the first time.
func mutable[T any](owner *token, slot **table[T]) *table[T] {
	t := *slot
	if t.owner == owner {
		return t
	}
	c := &table[T]{owner: owner, indexes: t.indexes, trees: make([]*btree.BTreeG[*T], len(t.trees))}
	for i, tree := range t.trees {
		c.trees[i] = tree.Clone()
	}
	*slot = c
	return c
}

// put inserts or replaces by primary key and returns what was there.
func (t *table[T]) put(rec *T) (old *T, existed bool) {
	old, existed = t.trees[0].ReplaceOrInsert(rec)
	for i := 1; i < len(t.trees); i++ {
		t.reindex(i, old, rec)
	}
	return old, existed
}

func (t *table[T]) reindex(i int, old, rec *T) {
	ix, tree := t.indexes[i], t.trees[i]
	if old != nil && ix.holds(old) && (rec == nil || !ix.holds(rec) || ix.differ(old, rec)) {
		tree.Delete(old)
	}
	if rec != nil && ix.holds(rec) {
		tree.ReplaceOrInsert(rec)
	}
}

func (ix index[T]) holds(rec *T) bool { return ix.member == nil || ix.member(rec) }

func (ix index[T]) differ(a, b *T) bool { return ix.less(a, b) || ix.less(b, a) }

// remove deletes by primary key and returns what was there.
func (t *table[T]) remove(key *T) (*T, bool) {
	old, existed := t.trees[0].Delete(key)
	if !existed {
		return nil, false
	}
	for i := 1; i < len(t.trees); i++ {
		t.reindex(i, old, nil)
	}
	return old, true
}

// get returns the record with the primary key of key.
func (t *table[T]) get(key *T) (*T, bool) { return t.trees[0].Get(key) }

func (t *table[T]) len() int { return t.trees[0].Len() }

// all yields every record in the order of the primary key.
func (t *table[T]) all() iter.Seq[*T] {
	return func(yield func(*T) bool) { t.trees[0].Ascend(yield) }
}

// from yields the records of index i from pivot on, while same holds.
func (t *table[T]) from(i int, pivot *T, same func(*T) bool) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		t.trees[i].AscendGreaterOrEqual(pivot, func(rec *T) bool { return same(rec) && yield(rec) })
	}
}

// first returns the first record that seq yields.
func first[T any](seq iter.Seq[*T]) (*T, bool) {
	for rec := range seq {
		return rec, true
	}
	return nil, false
}
