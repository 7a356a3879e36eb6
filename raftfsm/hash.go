package raftfsm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// roll chains the hash over (index, term, command).
func roll(prev [32]byte, entry *raft.Log) [32]byte {
	h := sha256.New()
	h.Write(prev[:])
	var n [16]byte
	binary.BigEndian.PutUint64(n[:8], entry.Index)
	binary.BigEndian.PutUint64(n[8:], entry.Term)
	h.Write(n[:])
	h.Write(entry.Data)
	return [32]byte(h.Sum(nil))
}

// concluded returns the state with the outcome of its last entry in the hash, so that
// nodes that applied the same command with other results find out. In place: nobody
// has seen s yet. Below version 2 the hash is of the commands alone.
func (s *state) concluded(code Code, dropped int) *state {
	if s.minVersion < 2 {
		return s
	}
	var outcome [9]byte
	outcome[0] = byte(code)
	binary.BigEndian.PutUint64(outcome[1:], uint64(dropped))
	s.hash = sha256.Sum256(append(s.hash[:], outcome[:]...))
	return s
}

// ringSize bounds how far back CheckHash can look, in entries.
const ringSize = 1024

// hashRing remembers the hashes after the last entries.
type hashRing struct {
	entries [ringSize]struct {
		index uint64
		hash  [32]byte
	}
}

func (r *hashRing) add(index uint64, hash [32]byte) {
	e := &r.entries[index%ringSize]
	e.index, e.hash = index, hash
}

func (r *hashRing) at(index uint64) ([32]byte, bool) {
	e := &r.entries[index%ringSize]
	return e.hash, e.index == index && index != 0
}

// checkHash compares the leader's hash with this node's own at that index. An
// index that this node does not remember, or has restored past, is not checked.
func (f *FSM) checkHash(c *raftv1.CheckHash) error {
	have, known := f.hashes.at(c.GetIndex())
	if c == nil || !known {
		return nil
	}
	if string(have[:]) != string(c.GetHash()) {
		return fmt.Errorf("%w (at index %d)", errHash, c.GetIndex())
	}
	f.checked.Store(c.GetIndex())
	return nil
}
