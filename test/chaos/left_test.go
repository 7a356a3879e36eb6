package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/prototext"

	"tarn/agent"
	"tarn/cmd/tarn/dev"
	tarnv1 "tarn/proto/tarn/v1"
)

// keptFiles of a share stay from one schedule to the next.
const keptFiles = 40

// sameEverywhere compares what every control node has made of the log, once they have
// all applied as much of it.
func (r *run) sameEverywhere() error {
	return eventually(r.t.Context(), patience, func(ctx context.Context) error {
		if err := r.StartAll(); err != nil {
			return err
		}
		var first string
		var index uint64
		for i, node := range r.names(dev.Control) {
			facts, at, err := r.facts(ctx, node)
			if err != nil {
				return fmt.Errorf("%s: %w", node, err)
			}
			switch {
			case i == 0:
				first, index = facts, at
			case at != index:
				return fmt.Errorf("%s has applied %d entries, %s %d", r.names(dev.Control)[0], index, node, at)
			case facts != first:
				return fmt.Errorf("after %d entries %s and %s differ: %s", at, r.names(dev.Control)[0], node, difference(first, facts))
			}
		}
		return nil
	})
}

// facts is a node's own state as text, and up to which entry of the log.
func (r *run) facts(ctx context.Context, node string) (string, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	api, err := r.only(node)
	if err != nil {
		return "", 0, err
	}
	defer api.Close()
	stale := tarnv1.Consistency_CONSISTENCY_STALE
	before, err := api.Operator.GetStatus(ctx, &tarnv1.GetStatusRequest{Consistency: stale})
	if err != nil {
		return "", 0, err
	}
	shares, err := api.Shares.ListShares(ctx, &tarnv1.ListSharesRequest{Consistency: stale, AllProjects: true})
	if err != nil {
		return "", 0, err
	}
	replicas, err := api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{Consistency: stale, AllProjects: true})
	if err != nil {
		return "", 0, err
	}
	for _, replica := range replicas.GetReplicas() {
		replica.Observed = nil // the leader's own memory
	}
	snapshots, err := api.Snapshots.ListSnapshots(ctx, &tarnv1.ListSnapshotsRequest{Consistency: stale, AllProjects: true})
	if err != nil {
		return "", 0, err
	}
	types, err := api.ShareTypes.ListShareTypes(ctx, &tarnv1.ListShareTypesRequest{Consistency: stale})
	if err != nil {
		return "", 0, err
	}
	after, err := api.Operator.GetStatus(ctx, &tarnv1.GetStatusRequest{Consistency: stale})
	if err == nil && after.GetAppliedIndex() != before.GetAppliedIndex() {
		err = errors.New("it goes on applying")
	}
	text := prototext.Format(shares) + prototext.Format(replicas) + prototext.Format(snapshots) + prototext.Format(types)
	return text, after.GetAppliedIndex(), err
}

func difference(a, b string) string {
	left, right := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(left), len(right)) {
		if left[i] != right[i] {
			return fmt.Sprintf("line %d is %q and %q", i+1, left[i], right[i])
		}
	}
	return fmt.Sprintf("%d lines and %d", len(left), len(right))
}

// nothingLeft looks for processes that nobody needs, and for datasets that are neither
// a replica nor a divergent copy.
func (r *run) nothingLeft() error {
	return eventually(r.t.Context(), patience, func(ctx context.Context) error {
		if err := r.StartAll(); err != nil {
			return err
		}
		left := map[string][]string{}
		for pid, p := range processes() {
			left[p.node] = append(left[p.node], fmt.Sprintf("%d %c %s", pid, p.state, p.command))
		}
		if len(left[""]) > 0 {
			return fmt.Errorf("processes that belong to no host: %q", left[""])
		}
		for _, n := range r.Nodes() {
			want := 1
			if n.Kind == dev.Agent {
				want = 2 // and the dead-man
			}
			if len(left[n.Name]) != want {
				return fmt.Errorf("%s has %d processes, not %d: %q", n.Name, len(left[n.Name]), want, left[n.Name])
			}
		}
		return r.noDatasetsLeft(ctx)
	})
}

func (r *run) noDatasetsLeft(ctx context.Context) error {
	copies, err := r.api.Replicas.ListDivergentCopies(ctx, &tarnv1.ListDivergentCopiesRequest{AllProjects: true})
	if err != nil {
		return err
	}
	want := map[string]int{}
	maps.Copy(want, r.bases)
	for _, d := range copies.GetDivergentCopies() {
		name, _, _ := strings.Cut(d.GetHost(), "@")
		want[name]++
	}
	for _, s := range r.shares {
		owner, others := r.seen.owner(s)
		for _, replica := range append(others, owner) {
			want[hostOf(replica)]++
		}
	}
	if r.onZFS() {
		return nil
	}
	for _, node := range r.Nodes() {
		trees := r.trees(node.Name)
		// What divergent copies of a pool lie below is made with the first of them.
		if n := len(trees); n < want[node.Name] || n > want[node.Name]+len(node.Pools) {
			return fmt.Errorf("%s has %d trees of files, %d are known: %q", node.Name, n, want[node.Name], trees)
		}
	}
	return nil
}

// trees are the directories of files, mounted or not, of a host's datasets.
func (r *run) trees(node string) []string {
	var trees []string
	for _, pattern := range []string{"heads/*", "mnt/*/tarn/*"} {
		// The only error is that of a malformed pattern.
		found, _ := filepath.Glob(filepath.Join(r.dataDir(node), "pools", "*", pattern))
		trees = append(trees, found...)
	}
	return trees
}

// onlyLives has every agent's log free of the word that another life of its host goes on:
// no machine is copied here.
func (r *run) onlyLives() error {
	var errs []error
	for _, name := range r.names(dev.Agent) {
		log, err := os.ReadFile(r.LogFile(name))
		errs = append(errs, err, onlyLife(name, log))
	}
	return errors.Join(errs...)
}

func onlyLife(name string, log []byte) error {
	at := bytes.Index(log, []byte(agent.ErrAnotherLife.Error()))
	if at < 0 {
		return nil
	}
	line, _, _ := bytes.Cut(log[bytes.LastIndexByte(log[:at], '\n')+1:], []byte("\n"))
	return fmt.Errorf("%s took itself for another life of its host: %s", name, line)
}

// tidy does what makes the next schedule begin like the first: most files go, and
// snapshots, and divergent copies, by their owners' and operators' hands.
func (r *run) tidy() error {
	ctx := r.t.Context()
	var errs []error
	for _, s := range r.shares {
		confirmed := r.oracle.confirmed(s)
		gone := map[string]bool{}
		for _, w := range confirmed[:max(0, len(confirmed)-keptFiles)] {
			gone[w.name] = true
		}
		errs = append(errs, eventually(ctx, patience, func(ctx context.Context) error { // a lease may be late for a moment
			if err := r.seen.look(ctx); err != nil {
				return err
			}
			owner, _ := r.seen.owner(s)
			dir, err := r.seenAt(owner)
			if err != nil {
				return err
			}
			return clearOut(dir, confirmed, gone)
		}))
		r.oracle.forget(gone)
	}
	snapshots, err := r.api.Snapshots.ListSnapshots(ctx, &tarnv1.ListSnapshotsRequest{})
	errs = append(errs, err)
	for i, s := range snapshots.GetSnapshots() {
		if i+2 < len(snapshots.GetSnapshots()) || s.GetStatus() == tarnv1.Status_STATUS_ERROR {
			errs = append(errs, r.discard(ctx, s.GetId()))
		}
	}
	copies, err := r.api.Replicas.ListDivergentCopies(ctx, &tarnv1.ListDivergentCopiesRequest{AllProjects: true})
	errs = append(errs, err)
	for _, d := range copies.GetDivergentCopies() {
		_, err := r.api.Replicas.PurgeDivergentCopy(ctx, &tarnv1.PurgeDivergentCopyRequest{Guid: d.GetGuid(), HostId: d.GetHostId(), Reason: "chaos"})
		errs = append(errs, err)
		r.count("divergent copies", 1)
	}
	return errors.Join(errs...)
}

// clearOut removes files that were confirmed and are accounted for, and those that
// nobody was told about.
func clearOut(dir string, confirmed []written, gone map[string]bool) error {
	keep := map[string]bool{}
	for _, w := range confirmed {
		keep[w.name] = !gone[w.name]
	}
	entries, err := os.ReadDir(dir)
	errs := []error{err}
	for _, e := range entries {
		if !keep[e.Name()] {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
