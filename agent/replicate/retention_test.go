package replicate

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tarn/agent/stream"
	"tarn/agent/stream/memzfs"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

func version(guid int, name string, refs int) zfs.Version {
	return zfs.Version{Kind: zfs.KindSnapshot, Dataset: "p/d", Name: name, GUID: zfs.GUID(guid), CreateTXG: uint64(guid), UserRefs: refs}
}

func TestPruneTable(t *testing.T) {
	k := keeping{
		versions: []zfs.Version{
			version(1, "tarn.s.1.1", 0), version(2, "tarn-user-a", 0), version(3, "operators", 0), version(4, "tarn.s.1.2", 1),
			version(5, "tarn.s.1.3", 1), version(6, "tarn-final-1", 1), version(7, "tarn.s.2.1", 0), version(8, "tarn.s.2.2", 1),
			version(9, "tarn.x.b", 0), version(10, "tarn-divergent-1", 1), version(11, "tarn.s.2.3", 1), version(12, "tarn.s.2.4", 0),
		},
		tags: map[string][]string{
			"tarn.s.1.2": {"tarn.step.peer"}, "tarn.s.1.3": {"tarn.step.gone"}, "tarn-final-1": {"tarn.last.me"},
			"tarn.s.2.2": {"operator"}, "tarn-divergent-1": {"tarn:divergent"},
		},
		self: "me", peers: []string{"peer"}, strange: map[string]bool{"gone": true}, protected: map[zfs.GUID]bool{7: true}, recent: 1,
	}
	got := k.prune()
	var names []string
	for _, v := range got.destroy {
		names = append(names, v.Name)
	}
	if want := []string{"tarn.s.1.1", "tarn.s.1.3", "tarn-final-1", "tarn.x.b"}; !slices.Equal(names, want) {
		t.Errorf("destroys %v, want %v", names, want)
	}
	if want := []release{{"tarn.step.gone", "tarn.s.1.3"}, {"tarn.last.me", "tarn-final-1"}}; !slices.Equal(got.release, want) || got.stale != 1 {
		t.Errorf("releases %v, %d of them stale, want %v and 1", got.release, got.stale, want)
	}
}

// anyKeeping draws a dataset with every kind of snapshot, hold and cursor.
func anyKeeping(t *rapid.T) keeping {
	names := []string{"tarn.s.1.%d", "tarn-user-%d", "operator-%d", "tarn-final-%d", "tarn-divergent-%d", "tarn.x.%d"}
	tags := []string{
		"tarn.step.peer", "tarn.step.other", "tarn.step.gone", "tarn.step.new", "tarn.last.me", "tarn.last.gone", "tarn.last.new",
		"tarn:divergent", "operator",
	}
	k := keeping{
		self: "me", peers: []string{"peer", "other"}, strange: map[string]bool{"gone": true}, tags: map[string][]string{},
		late: map[release]bool{}, protected: map[zfs.GUID]bool{}, fixed: map[zfs.GUID]bool{},
	}
	k.following, k.recent = rapid.Bool().Draw(t, "following"), rapid.IntRange(0, 4).Draw(t, "recent")
	for i := range rapid.IntRange(1, 20).Draw(t, "n") {
		v := version(i+1, fmt.Sprintf(rapid.SampledFrom(names).Draw(t, "name"), i), 0)
		if rapid.IntRange(0, 6).Draw(t, "bookmarked") == 0 {
			cursor := cursorName(v.GUID, rapid.SampledFrom([]string{"peer", "gone", "new"}).Draw(t, "cursor"))
			k.versions = append(k.versions, zfs.Version{Kind: zfs.KindBookmark, Dataset: "p/d", Name: cursor, GUID: v.GUID, CreateTXG: v.CreateTXG})
		}
		k.tags[v.Name] = rapid.SliceOfNDistinct(rapid.SampledFrom(tags), 0, 3, rapid.ID[string]).Draw(t, "tags")
		for _, tag := range k.tags[v.Name] {
			k.late[release{tag, v.Name}] = rapid.Bool().Draw(t, "late")
		}
		v.UserRefs = len(k.tags[v.Name]) + rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "unlisted")
		k.protected[v.GUID] = rapid.IntRange(0, 4).Draw(t, "protected") == 0
		if rapid.IntRange(0, 8).Draw(t, "fixed") == 0 {
			k.fixed[v.GUID], k.protected[v.GUID] = true, true
		}
		k.versions = append(k.versions, v)
	}
	return k
}

// TestPruneKeeps checks the laws of retention on anything.
func TestPruneKeeps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := anyKeeping(t)
		got := k.prune()
		converted, marked := map[string][]string{}, map[zfs.GUID]bool{}
		for _, c := range got.convert {
			converted[c.of.Name] = c.replicas
		}
		newest := zfs.GUID(0)
		for _, v := range k.versions {
			if v.Kind == zfs.KindSnapshot {
				newest = v.GUID
			} else if id := cursorOwner(v); id != "gone" {
				marked[v.GUID] = true
			}
		}
		for _, v := range got.destroy {
			left := v.UserRefs
			for _, r := range got.release {
				if r.name == v.Name {
					left--
				}
			}
			based := !k.protected[v.GUID] || marked[v.GUID] || len(converted[v.Name]) > 0
			if v.GUID == newest || left > 0 || k.fixed[v.GUID] || !based || !prunable(v.Name) {
				t.Fatalf("destroys %+v with %d holds left", v, left)
			}
		}
		for _, r := range got.release {
			checkRelease(t, k, r, converted[r.name])
		}
		for _, v := range got.cursors {
			if cursorOwner(v) != "gone" {
				t.Fatalf("removes cursor %s", v.Name)
			}
		}
	})
}

// checkRelease: a hold goes when its replica is a stranger, when it is an old
// receipt of our own, or when a bookmark for its peer takes its place.
func checkRelease(t *rapid.T, k keeping, r release, bookmarked []string) {
	switch r.tag {
	case "tarn.step.gone", "tarn.last.gone":
	case "tarn.last.me":
		if k.following {
			t.Fatalf("a follower releases its receipt %+v", r)
		}
	case "tarn.step.peer", "tarn.step.other":
		if !k.late[r] || !slices.Contains(bookmarked, strings.TrimPrefix(r.tag, holdStep)) {
			t.Fatalf("releases %+v without a bookmark in its place", r)
		}
	default:
		t.Fatalf("releases %+v", r)
	}
}

// TestStrangersHaveAnHour: what a replica holds is let go exactly when it was
// unknown at every look of more than an hour, however peers come and go.
func TestStrangersHaveAnHour(t *testing.T) {
	ids := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		var s strangers
		unknown := map[string]time.Time{} // since when, by the model
		now := time.Unix(0, 0)
		for range rapid.IntRange(1, 40).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "minutes")) * time.Minute)
			holding := rapid.SliceOfDistinct(rapid.SampledFrom(ids), rapid.ID[string]).Draw(t, "holding")
			known := map[string]bool{}
			for _, id := range rapid.SliceOfDistinct(rapid.SampledFrom(ids), rapid.ID[string]).Draw(t, "known") {
				known[id] = true
			}
			late := s.note(holding, known, now)
			for _, id := range ids {
				if known[id] || !slices.Contains(holding, id) {
					delete(unknown, id)
				} else if unknown[id].IsZero() {
					unknown[id] = now
				}
				if want := !unknown[id].IsZero() && now.Sub(unknown[id]) > time.Hour; late[id] != want {
					t.Fatalf("%s, unknown since %v: late %v", id, unknown[id], late[id])
				}
			}
		}
	})
}

// TestForgottenHoldsAreReleased lets a worker's retention meet holds of replicas
// that nobody knows, in virtual time.
func TestForgottenHoldsAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := memzfs.New(1, testPool)
		w := bare(fs, "me", tarnv1.Role_ROLE_ACTIVE, &tarnv1.Peer{ReplicaId: "peer", HostId: "h"})
		released, holds := 0, map[string]int{}
		w.hooks.StaleHolds = func(n int) { released += n }
		w.hooks.Holds = func(_ string, kinds map[string]int) { holds = kinds }
		check(t, fs.Create(t.Context(), w.l.dataset(), nil, true))
		check(t, fs.Snapshot(t.Context(), w.l.dataset()+"@tarn.1"))
		for _, tag := range []string{"tarn.step.peer", "tarn.step.gone", "tarn.last.gone", "tarn.last.me", "operator"} {
			check(t, fs.Hold(t.Context(), tag, w.l.dataset()+"@tarn.1"))
		}
		check(t, fs.Bookmark(t.Context(), w.l.dataset()+"@tarn.1", w.l.dataset()+"#"+cursorName(w.guid("tarn.1"), "gone")))
		tags := func() (list []string) {
			all, err := fs.Holds(t.Context(), w.l.dataset()+"@tarn.1")
			check(t, err)
			for _, h := range all {
				list = append(list, h.Tag)
			}
			slices.Sort(list)
			return list
		}
		check(t, w.prune(t.Context()))
		time.Sleep(time.Hour)
		check(t, w.prune(t.Context()))
		if len(tags()) != 5 || released != 0 || holds["step"] != 2 || holds["last"] != 2 || holds["foreign"] != 1 {
			t.Errorf("after an hour: %v, %d released, %v counted", tags(), released, holds)
		}
		time.Sleep(time.Minute)
		check(t, w.prune(t.Context()))
		if want := []string{"operator", "tarn.last.me", "tarn.step.peer"}; !slices.Equal(tags(), want) || released != 2 {
			t.Errorf("later: %v, %d released", tags(), released)
		}
		if _, list, _ := fs.Peek(w.l.dataset()); len(list) != 1 {
			t.Errorf("the cursor of a stranger stayed: %v", list)
		}
	})
}

// guid finds a snapshot that is here.
func (w *Worker) guid(name string) zfs.GUID {
	list, _ := w.cfg.Engine.Versions(context.Background(), w.l.dataset())
	f := facts{versions: list}
	v, _ := f.named(name)
	return v.GUID
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// chain is a source and its receivers, driven by hand one operation at a time.
type chain struct {
	source    *Worker
	receivers []*Worker
	client    *stream.Client
	src       *tarnv1.Source
	seq       int
}

func bare(fs *memzfs.Host, replica string, role tarnv1.Role, peers ...*tarnv1.Peer) *Worker {
	w := &Worker{
		cfg:   Config{ReplicaID: replica, ShareID: "share", Pool: testPool, Base: testBase, Engine: fs, KeepRecent: 1, AwayBudget: time.Hour},
		hooks: Hooks{}.withDefaults(),
		l:     layout{pool: testPool, base: testBase, share: "share", replica: replica}, log: slog.New(slog.DiscardHandler),
		errorsOf: map[string]string{},
	}
	w.s.a = &tarnv1.Assignment{
		ReplicaId: replica, ShareId: "share", Epoch: 1, Role: role, Peers: peers, Keep: &tarnv1.KeepPolicy{Claims: []string{"other."}},
	}
	return w
}

func newChain(t *rapid.T, receivers int) *chain {
	fs := memzfs.New(1, testPool)
	c := &chain{}
	var peers []*tarnv1.Peer
	for i := range receivers {
		id := fmt.Sprintf("r%d", i)
		peers = append(peers, &tarnv1.Peer{ReplicaId: id, HostId: "peer"})
		c.receivers = append(c.receivers, bare(memzfs.New(uint64(i+2), testPool), id, tarnv1.Role_ROLE_SECONDARY))
	}
	c.source = bare(fs, "src", tarnv1.Role_ROLE_ACTIVE, peers...)
	if err := fs.Create(t.Context(), c.source.l.dataset(), nil, true); err != nil {
		t.Fatal(err)
	}
	for _, r := range c.receivers {
		if err := r.cfg.Engine.Create(t.Context(), testRoot, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	srv, err := stream.NewServer(stream.Config{
		Engine: fs, Board: stream.NewBoard(), Logger: slog.New(slog.DiscardHandler),
		PeerID: func(*http.Request) (string, error) { return "peer", nil },
		Authorize: func(string, string, string) (stream.Grant, error) {
			return stream.Grant{Dataset: c.source.l.dataset(), Epoch: 1}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.source.cfg.Settle = srv.Settle
	hs := httptest.NewUnstartedServer(srv)
	hs.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	hs.StartTLS()
	t.Cleanup(hs.Close)
	conf := hs.Client().Transport.(*http.Transport).TLSClientConfig
	c.client, err = stream.NewClient(stream.ClientConfig{TLS: func(string) *tls.Config { return conf }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.client.Close)
	c.src = &tarnv1.Source{ReplicaId: "src", HostId: "src", Address: strings.TrimPrefix(hs.URL, "https://")}
	return c
}

func (c *chain) snapshot(t *rapid.T, name string) {
	c.seq++
	if err := c.source.cfg.Engine.Snapshot(t.Context(), fmt.Sprintf("%s@%s%d", c.source.l.dataset(), name, c.seq)); err != nil {
		t.Fatal(err)
	}
}

// pull does a step of receiver r and dies where told: 0 after asking, 1 after
// receiving, 2 not at all.
func (c *chain) pull(t *rapid.T, r *Worker, end int) {
	fs := r.cfg.Engine.(*memzfs.Host)
	_, list, _ := fs.Peek(r.l.dataset())
	r.s.f = facts{versions: list}
	p, err := c.client.Pull(t.Context(), stream.Request{Source: c.src, Share: "share", Replica: r.cfg.ReplicaID, Epoch: 1, Have: r.s.f.have()})
	if err != nil {
		t.Fatalf("pull of %s: %v", r.cfg.ReplicaID, err)
	}
	defer p.Close()
	if end == 0 || p.Step.UpToDate() {
		return
	}
	if err := fs.Receive(t.Context(), zfs.ReceiveRequest{Target: r.l.dataset() + "@" + p.Step.ToName}, io.Reader(p)); err != nil {
		t.Fatalf("receive of %s: %v", r.cfg.ReplicaID, err)
	}
	if end == 1 {
		return
	}
	_, list, _ = fs.Peek(r.l.dataset())
	r.s.f.versions = list
	if err := r.holdLast(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestRetentionNeverBreaksTheChain: source and receivers snapshot, pull, die and
// prune in any order; every receiver can go on from its newest snapshot.
func TestRetentionNeverBreaksTheChain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newChain(t, 2)
		c.snapshot(t, "tarn.")
		receiver := rapid.SampledFrom(c.receivers)
		prune := func(w *Worker) {
			if _, list, ok := w.cfg.Engine.(*memzfs.Host).Peek(w.l.dataset()); ok && len(list) > 0 {
				if err := w.prune(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"snapshot":      func(t *rapid.T) { c.snapshot(t, "tarn.") },
			"user snapshot": func(t *rapid.T) { c.snapshot(t, userPrefix) },
			// Another tool's, which the policy claims.
			"foreign snapshot": func(t *rapid.T) { c.snapshot(t, "other.") },
			"pull":             func(t *rapid.T) { c.pull(t, receiver.Draw(t, "receiver"), rapid.IntRange(0, 2).Draw(t, "end")) },
			"prune source": func(t *rapid.T) {
				// Some peers count as away at once: bookmarks take the place of their bases.
				c.source.cfg.AwayBudget = rapid.SampledFrom([]time.Duration{time.Hour, 1}).Draw(t, "budget")
				prune(c.source)
			},
			"prune receiver": func(t *rapid.T) {
				prune(receiver.Draw(t, "receiver"))
			},
			"": func(t *rapid.T) { c.check(t) },
		})
	})
}

func (c *chain) check(t *rapid.T) {
	_, source, _ := c.source.cfg.Engine.(*memzfs.Host).Peek(c.source.l.dataset())
	for _, r := range c.receivers {
		_, target, _ := r.cfg.Engine.(*memzfs.Host).Peek(r.l.dataset())
		_, rel := zfs.IncrementalBase(source, target)
		if rel == zfs.RelationDiverged || rel == zfs.RelationUnrelated {
			t.Fatalf("%s is %v: source %v, receiver %v", r.cfg.ReplicaID, rel, source, target)
		}
	}
}

// counted counts the operations on a host by their verb.
func counted(fs *memzfs.Host) map[string]int {
	ops := map[string]int{}
	fs.Before = func(_ int, op, _ string) error { ops[op]++; return nil }
	return ops
}

// TestWhatCannotGoIsLeftAlone: a snapshot that the storage refuses to destroy is not
// tried again at every run, and does not keep the others.
func TestWhatCannotGoIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := memzfs.New(1, testPool)
		w := bare(fs, "me", tarnv1.Role_ROLE_ACTIVE)
		check(t, fs.Create(t.Context(), w.l.dataset(), nil, true))
		for i := range 4 {
			check(t, fs.Snapshot(t.Context(), fmt.Sprintf("%s@tarn.%d", w.l.dataset(), i)))
		}
		check(t, fs.Clone(t.Context(), w.l.dataset()+"@tarn.1", testPool+"/clone", nil))
		var failed []string
		w.hooks.PruneFailed = func(_, reason string) { failed = append(failed, reason) }
		var left Retained
		w.hooks.Retained = func(_ string, r Retained) { left = r }
		check(t, w.prune(t.Context()))
		_, list, _ := fs.Peek(w.l.dataset())
		if got := names(list); !slices.Equal(got, []string{"tarn.1", "tarn.3"}) || !slices.Equal(failed, []string{"clones"}) {
			t.Errorf("left %v, failed %v", got, failed)
		}
		ops := counted(fs)
		check(t, w.prune(t.Context()))
		if ops["destroy"] != 0 || len(failed) != 1 || left.Overdue != 1 {
			t.Errorf("tried again: %v, %v, overdue %d", ops, failed, left.Overdue)
		}
		fs.Before = nil
		check(t, fs.Destroy(t.Context(), testPool+"/clone"))
		time.Sleep(2 * stuckFor)
		check(t, w.prune(t.Context()))
		if _, list, _ := fs.Peek(w.l.dataset()); len(list) != 1 {
			t.Errorf("when the clone is gone %v stay", names(list))
		}
	})
}

// TestUpkeepOfIdleReplicas: a look at many replicas that need nothing costs two listings of
// their pool, and none of each.
func TestUpkeepOfIdleReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := memzfs.New(1, testPool)
		survey := NewSurvey(fs, testRoot)
		var all []*Worker
		for i := range 10 {
			w := bare(fs, fmt.Sprintf("r%d", i), tarnv1.Role_ROLE_SECONDARY)
			w.cfg.Survey = survey
			check(t, fs.Create(t.Context(), w.l.dataset(), nil, true))
			check(t, fs.Snapshot(t.Context(), w.l.dataset()+"@tarn.1"))
			check(t, fs.Hold(t.Context(), holdLast+w.cfg.ReplicaID, w.l.dataset()+"@tarn.1"))
			all = append(all, w)
		}
		for _, w := range all {
			check(t, w.keepUp(t.Context(), false))
		}
		time.Sleep(maintainEvery)
		ops := counted(fs)
		for _, w := range all {
			check(t, w.keepUp(t.Context(), false))
		}
		total := 0
		for _, n := range ops {
			total += n
		}
		if total != 2 {
			t.Errorf("ten idle replicas cost %v", ops)
		}
	})
}
