package replicate

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

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
		self: "me", peers: []string{"peer"}, protected: map[zfs.GUID]bool{7: true}, recent: 1,
	}
	releases, destroy := k.prune()
	var names []string
	for _, v := range destroy {
		names = append(names, v.Name)
	}
	if want := []string{"tarn.s.1.1", "tarn.s.1.3", "tarn-final-1", "tarn.x.b"}; !slices.Equal(names, want) {
		t.Errorf("destroys %v, want %v", names, want)
	}
	if want := []release{{"tarn.step.gone", "tarn.s.1.3"}, {"tarn.last.me", "tarn-final-1"}}; !slices.Equal(releases, want) {
		t.Errorf("releases %v, want %v", releases, want)
	}
}

// TestPruneKeeps checks the laws of retention on anything.
func TestPruneKeeps(t *testing.T) {
	names := []string{"tarn.s.1.%d", "tarn-user-%d", "operator-%d", "tarn-final-%d", "tarn-divergent-%d", "tarn.x.%d"}
	tags := []string{"tarn.step.peer", "tarn.step.gone", "tarn.last.me", "tarn.last.other", "tarn:divergent", "operator"}
	rapid.Check(t, func(t *rapid.T) {
		k := keeping{self: "me", peers: []string{"peer"}, tags: map[string][]string{}, protected: map[zfs.GUID]bool{}}
		k.following, k.recent = rapid.Bool().Draw(t, "following"), rapid.IntRange(0, 4).Draw(t, "recent")
		for i := range rapid.IntRange(1, 20).Draw(t, "n") {
			v := version(i+1, fmt.Sprintf(rapid.SampledFrom(names).Draw(t, "name"), i), 0)
			k.tags[v.Name] = rapid.SliceOfNDistinct(rapid.SampledFrom(tags), 0, 2, rapid.ID[string]).Draw(t, "tags")
			v.UserRefs = len(k.tags[v.Name]) + rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "unlisted")
			k.protected[v.GUID] = rapid.IntRange(0, 5).Draw(t, "protected") == 0
			k.versions = append(k.versions, v)
		}
		releases, destroy := k.prune()
		for _, v := range destroy {
			left := v.UserRefs
			for _, r := range releases {
				if r.name == v.Name {
					left--
				}
			}
			newest := v.GUID == k.versions[len(k.versions)-1].GUID
			if newest || left > 0 || k.protected[v.GUID] || !prunable(v.Name) {
				t.Fatalf("destroys %+v with %d holds left", v, left)
			}
		}
		for _, r := range releases {
			if r.tag == "operator" || r.tag == "tarn:divergent" || r.tag == "tarn.step.peer" || r.tag == "tarn.last.other" {
				t.Fatalf("releases %+v", r)
			}
		}
	})
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
		cfg: Config{ReplicaID: replica, ShareID: "share", Pool: testPool, Base: testBase, Engine: fs, KeepRecent: 1},
		l:   layout{pool: testPool, base: testBase, share: "share", replica: replica}, log: slog.New(slog.DiscardHandler),
		errorsOf: map[string]string{},
	}
	w.s.a = &tarnv1.Assignment{ReplicaId: replica, ShareId: "share", Epoch: 1, Role: role, Peers: peers}
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
			"pull":          func(t *rapid.T) { c.pull(t, receiver.Draw(t, "receiver"), rapid.IntRange(0, 2).Draw(t, "end")) },
			"prune source":  func(*rapid.T) { prune(c.source) },
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
