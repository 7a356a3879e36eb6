package schedule

// treap keeps the pools of a class in the order in which they would be chosen.
// Each subtree knows the largest share that fits into one of its pools, so
// pools that are too full are passed over without a look at them.
type treap struct {
	root *poolEntry
	// seed makes heap priorities: reproducible, and good enough to balance.
	seed uint64
}

type treapNode struct {
	left, right *poolEntry
	priority    uint64
	maxFit      int64
}

// before is the order of choice within a class.
func (e *poolEntry) before(o *poolEntry) bool {
	if e.percent != o.percent {
		return e.percent > o.percent
	}
	if e.usage.Replicas != o.usage.Replicas {
		return e.usage.Replicas < o.usage.Replicas
	}
	return e.fullName < o.fullName
}

func (t *treap) insert(e *poolEntry) {
	// splitmix64
	t.seed += 0x9e3779b97f4a7c15
	z := t.seed
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	e.node = treapNode{priority: z ^ (z >> 31), maxFit: e.fit}
	t.root = insertNode(t.root, e)
}

func (t *treap) remove(e *poolEntry) {
	t.root = removeNode(t.root, e)
	e.node = treapNode{}
}

// walk calls fn with the pools that hold size GiB, best first, until it returns false.
func (t *treap) walk(size int64, fn func(*poolEntry) bool) { walkNode(t.root, size, fn) }

func walkNode(n *poolEntry, size int64, fn func(*poolEntry) bool) bool {
	if n == nil || n.node.maxFit < size {
		return true
	}
	if !walkNode(n.node.left, size, fn) {
		return false
	}
	if n.fit >= size && !fn(n) {
		return false
	}
	return walkNode(n.node.right, size, fn)
}

func insertNode(n, e *poolEntry) *poolEntry {
	if n == nil {
		return e
	}
	if e.node.priority > n.node.priority {
		e.node.left, e.node.right = split(n, e)
		e.update()
		return e
	}
	if e.before(n) {
		n.node.left = insertNode(n.node.left, e)
	} else {
		n.node.right = insertNode(n.node.right, e)
	}
	n.update()
	return n
}

// split parts a subtree into what comes before e and what comes after.
func split(n, e *poolEntry) (before, after *poolEntry) {
	if n == nil {
		return nil, nil
	}
	if n.before(e) {
		n.node.right, after = split(n.node.right, e)
		n.update()
		return n, after
	}
	before, n.node.left = split(n.node.left, e)
	n.update()
	return before, n
}

func removeNode(n, e *poolEntry) *poolEntry {
	if n == nil {
		return nil
	}
	if n == e {
		return join(n.node.left, n.node.right)
	}
	if e.before(n) {
		n.node.left = removeNode(n.node.left, e)
	} else {
		n.node.right = removeNode(n.node.right, e)
	}
	n.update()
	return n
}

func join(a, b *poolEntry) *poolEntry {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	if a.node.priority > b.node.priority {
		a.node.right = join(a.node.right, b)
		a.update()
		return a
	}
	b.node.left = join(a, b.node.left)
	b.update()
	return b
}

func (e *poolEntry) update() {
	m := e.fit
	if l := e.node.left; l != nil {
		m = max(m, l.node.maxFit)
	}
	if r := e.node.right; r != nil {
		m = max(m, r.node.maxFit)
	}
	e.node.maxFit = m
}
