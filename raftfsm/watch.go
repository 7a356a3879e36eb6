package raftfsm

import (
	"maps"
	"slices"

	tarnv1 "tarn/proto/tarn/v1"
)

// hostWatch is the raft index of the last change that concerns a host. changed is
// closed when a later one is published.
type hostWatch struct {
	host     string
	revision uint64
	changed  chan struct{}
}

// settleWatches turns the touched shares into touched hosts and gives each a new
// revision. The channels to close once the state is published go to tx.wake.
func (tx *txn) settleWatches() {
	for _, id := range slices.Sorted(maps.Keys(tx.touchedShares)) {
		tx.touchHostsOf(id)
		tx.touchClonesOf(id)
		tx.touchOriginOf(id)
	}
	if len(tx.touchedHosts) == 0 {
		return
	}
	t := mutable(tx.own, &tx.s.watch)
	for _, id := range slices.Sorted(maps.Keys(tx.touchedHosts)) {
		next := &hostWatch{host: id, revision: tx.s.index, changed: make(chan struct{})}
		if old, ok := t.put(next); ok {
			tx.wake = append(tx.wake, old.changed)
		}
	}
}

func (tx *txn) touchHostsOf(shareID string) {
	for r := range tx.s.replicasOf(shareID) {
		tx.touchHost(r.GetHostId())
	}
}

// touchClonesOf touches the hosts of shares that are being made from a snapshot of
// the share: their assignments name the replica that they copy from.
func (tx *txn) touchClonesOf(shareID string) {
	for snap := range tx.s.snapshotsOf(shareID) {
		for clone := range tx.s.clonesOf(snap.GetId()) {
			tx.touchHostsOf(clone.GetId())
		}
	}
}

// touchOriginOf touches the hosts of the share whose snapshot a share is made from:
// their assignments name the replica that may copy from them.
func (tx *txn) touchOriginOf(shareID string) {
	s, _ := tx.s.share(shareID)
	if snap, ok := tx.s.snapshot(s.GetSnapshotId()); ok {
		tx.touchHostsOf(snap.GetShareId())
	}
}

// touchPeersOf touches every host that may pull from host: its address changed.
func (tx *txn) touchPeersOf(host *tarnv1.Host) {
	for r := range tx.s.replicasOn(host.GetId()) {
		tx.touchShare(r.GetShareId())
	}
}

func (tx *txn) touchShare(id string) {
	if tx.touchedShares != nil {
		tx.touchedShares[id] = struct{}{}
	}
}

func (tx *txn) touchHost(id string) {
	if id != "" && tx.touchedHosts != nil {
		tx.touchedHosts[id] = struct{}{}
	}
}
