package client

import (
	"slices"
	"sync"
)

// maxLearned bounds how many addresses the client keeps beside the given ones.
const maxLearned = 16

// nodes remembers where calls got through. Calls that need the leader share one
// position; those that any node answers have their own, so that they do not all
// gather at the leader.
type nodes struct {
	mu      sync.Mutex
	known   []string
	given   int
	leader  string
	anybody string
}

func newNodes(addresses []string) *nodes {
	return &nodes{known: addresses, given: len(addresses), leader: addresses[0], anybody: addresses[0]}
}

// current returns the address to try first.
func (n *nodes) current(anyNode bool) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if anyNode {
		return n.anybody
	}
	return n.leader
}

// follow makes address the leader's.
func (n *nodes) follow(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leader = address
	if slices.Contains(n.known, address) {
		return
	}
	if len(n.known) >= n.given+maxLearned {
		n.known = slices.Delete(n.known, n.given, n.given+1)
	}
	n.known = append(n.known, address)
}

// leave moves on from an address that did not help, unless somebody has already.
func (n *nodes) leave(address string, anyNode bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	position := &n.leader
	if anyNode {
		position = &n.anybody
	}
	if *position == address {
		*position = n.known[(slices.Index(n.known, address)+1)%len(n.known)]
	}
}
