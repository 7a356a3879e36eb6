package chaos

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/test/chaos/nfs"
)

// written is one file whose write a host has confirmed. All instants are of this
// machine's one clock.
type written struct {
	share, replica, name string
	begun, acked         time.Time
	sum                  [sha256.Size]byte
}

// oracle has clients that write to every replica of every share, also to those that
// must refuse, and knows all that was ever confirmed.
type oracle struct {
	seen *observer

	mu       sync.Mutex
	entries  []written
	attempts int
	refused  int
	number   int
	paused   bool
	idle     sync.WaitGroup
	// where a replica was last seen to be exported: a client goes on with what it knows.
	known map[string]place
}

type place struct{ address, path string }

// run writes until ctx ends.
func (o *oracle) run(ctx context.Context, shares map[string][]string) {
	var all sync.WaitGroup
	for share, replicas := range shares {
		for i, replica := range replicas {
			all.Go(func() { o.client(ctx, share, replica, rand.New(rand.NewPCG(suite.seed, uint64(i)))) })
		}
	}
	all.Wait()
}

// client writes to one replica, whatever it is.
func (o *oracle) client(ctx context.Context, share, replica string, chance *rand.Rand) {
	var tree *nfs.Tree
	var at place
	defer func() {
		if tree != nil {
			_ = tree.Close()
		}
	}()
	for wait(ctx, 40*time.Millisecond+time.Duration(chance.Int64N(int64(120*time.Millisecond)))) {
		now := o.whereIs(replica)
		if now.path == "" || !o.begin() {
			continue
		}
		if tree != nil && now != at {
			_ = tree.Close()
			tree = nil
		}
		at = now
		tree = o.try(ctx, tree, at, share, replica, chance)
		o.idle.Done()
	}
}

// try writes one file and returns the connection if it is good for another.
func (o *oracle) try(ctx context.Context, tree *nfs.Tree, at place, share, replica string, chance *rand.Rand) *nfs.Tree {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var err error
	if tree == nil {
		if tree, err = nfs.Mount(ctx, at.address, at.path); err != nil {
			o.note(written{}, false)
			return nil
		}
	}
	o.mu.Lock()
	o.number++
	w := written{share: share, replica: replica, name: fmt.Sprintf("w%07d", o.number)}
	o.mu.Unlock()
	data := content(w.name, chance)
	w.sum, w.begun = sha256.Sum256(data), time.Now()
	err = tree.Write(ctx, w.name, data)
	w.acked = time.Now()
	o.note(w, err == nil)
	if s, refused := errors.AsType[nfs.Status](err); err == nil || refused && s != nfs.Stale {
		return tree
	}
	_ = tree.Close()
	return nil
}

func content(name string, chance *rand.Rand) []byte {
	data := make([]byte, 500+chance.IntN(12_000))
	// ChaCha8 never fails to read.
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(data)
	return data
}

func (o *oracle) note(w written, confirmed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.attempts++
	if confirmed {
		o.entries = append(o.entries, w)
		return
	}
	o.refused++
}

func (o *oracle) begin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.paused {
		return false
	}
	o.idle.Add(1)
	return true
}

// pause waits until no write is under way; none begins until resume.
func (o *oracle) pause() {
	o.mu.Lock()
	o.paused = true
	o.mu.Unlock()
	o.idle.Wait()
}

func (o *oracle) resume() {
	o.mu.Lock()
	o.paused = false
	o.mu.Unlock()
}

// confirmed is a copy of everything that counts as written to a share.
func (o *oracle) confirmed(share string) []written {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []written
	for _, w := range o.entries {
		if w.share == share {
			out = append(out, w)
		}
	}
	return out
}

// forget drops what is accounted for.
func (o *oracle) forget(gone map[string]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	kept := o.entries[:0]
	for _, w := range o.entries {
		if !gone[w.name] {
			kept = append(kept, w)
		}
	}
	o.entries = kept
}

// whereIs is where the replica's host serves it, as last heard.
func (o *oracle) whereIs(replica string) place {
	r := o.seen.replica(replica)
	o.mu.Lock()
	defer o.mu.Unlock()
	if p := placeOf(r, o.seen.arena); p.path != "" {
		o.known[replica] = p
	}
	return o.known[replica]
}

func placeOf(r *tarnv1.Replica, a *arena) place {
	for _, l := range r.GetExportLocations() {
		_, path, ok := strings.Cut(l.GetPath(), ":/")
		n, err := a.Node(hostOf(r))
		if ok && err == nil {
			return place{address: net.JoinHostPort(n.IP, strconv.Itoa(n.NFS)), path: "/" + path}
		}
	}
	return place{}
}
