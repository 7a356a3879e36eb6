package stream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/agent/stream/memzfs"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// rig is a source with one dataset behind TLS, and a client.
type rig struct {
	fs     *memzfs.Host
	board  *Board
	server *Server
	client *Client
	src    *tarnv1.Source
	grant  Grant
}

func newRig(t *testing.T, stall time.Duration, wrap func(http.Handler) http.Handler) *rig {
	t.Helper()
	r := &rig{fs: memzfs.New(1, "tank"), board: NewBoard(), grant: Grant{Dataset: "tank/d", Epoch: 1, Replicas: []string{"b"}}}
	ctx := context.Background()
	fatal(t, r.fs.Create(ctx, "tank/d", nil, true))
	fatal(t, r.fs.Mount(ctx, "tank/d"))
	srv, err := NewServer(Config{
		Engine: r.fs, Board: r.board, Logger: slog.New(slog.DiscardHandler), StallTimeout: stall,
		PeerID: func(*http.Request) (string, error) { return "peer", nil },
		Authorize: func(peer, share, replica string) (Grant, error) {
			if peer != "peer" || share != "s" || replica != "a" {
				return Grant{}, errors.New("secret reason")
			}
			return r.grant, nil
		},
	})
	fatal(t, err)
	r.server = srv
	var h http.Handler = srv
	if wrap != nil {
		h = wrap(srv)
	}
	hs := httptest.NewUnstartedServer(h)
	hs.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	hs.StartTLS()
	t.Cleanup(hs.Close)
	conf := hs.Client().Transport.(*http.Transport).TLSClientConfig
	r.client, err = NewClient(ClientConfig{TLS: func(string) *tls.Config { return conf }, StallTimeout: stall})
	fatal(t, err)
	t.Cleanup(r.client.Close)
	r.src = &tarnv1.Source{ReplicaId: "a", HostId: "h", Address: strings.TrimPrefix(hs.URL, "https://")}
	return r
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) snapshot(t *testing.T, name, text string) zfs.GUID {
	t.Helper()
	fatal(t, r.fs.Write("tank/d", text, true))
	fatal(t, r.fs.Snapshot(t.Context(), "tank/d@"+name))
	_, list, _ := r.fs.Peek("tank/d")
	return list[len(list)-1].GUID
}

func (r *rig) request() Request {
	return Request{Source: r.src, Share: "s", Replica: "b", Epoch: 1}
}

// held settles the steps so far and counts the holds.
func (r *rig) held(t *testing.T) map[zfs.GUID]int {
	t.Helper()
	versions, err := r.fs.Versions(t.Context(), "tank/d")
	fatal(t, err)
	_, err = r.server.Settle(t.Context(), "a", versions)
	fatal(t, err)
	_, list, _ := r.fs.Peek("tank/d")
	held := map[zfs.GUID]int{}
	for _, v := range list {
		if v.UserRefs > 0 {
			held[v.GUID] = v.UserRefs
		}
	}
	return held
}

func TestPullBringsTheNextStep(t *testing.T) {
	r := newRig(t, 0, nil)
	if _, err := r.client.Pull(t.Context(), r.request()); !errors.Is(err, ErrNothing) {
		t.Fatalf("of nothing: %v", err)
	}
	one := r.snapshot(t, "tarn.1", "one")
	p, err := r.client.Pull(t.Context(), r.request())
	fatal(t, err)
	data, err := io.ReadAll(p)
	fatal(t, err)
	fatal(t, p.Finish())
	if p.Step.Kind != KindFull || p.Step.To != one || !bytes.Contains(data, []byte("one")) || p.Bytes() != int64(len(data)) {
		t.Errorf("%+v with %q", p.Step, data)
	}
	if p.Step.Estimate != int64(len(data)) {
		t.Errorf("estimate %d of %d", p.Step.Estimate, len(data))
	}
	two := r.snapshot(t, "tarn.2", "two")
	three := r.snapshot(t, "tarn.3", "three")
	req := r.request()
	req.Have = []zfs.GUID{one}
	p, err = r.client.Pull(t.Context(), req)
	fatal(t, err)
	_, err = io.Copy(io.Discard, p)
	fatal(t, err)
	fatal(t, p.Finish())
	if p.Step.From != one || p.Step.To != three {
		t.Errorf("%+v", p.Step)
	}
	if h := r.held(t); len(h) != 2 || h[one] != 1 || h[three] != 1 || h[two] != 0 {
		t.Errorf("holds %v", h)
	}
	req.Have = []zfs.GUID{three, one}
	p, err = r.client.Pull(t.Context(), req)
	fatal(t, err)
	if !p.Step.UpToDate() {
		t.Errorf("%+v", p.Step)
	}
	if h := r.held(t); len(h) != 1 || h[three] != 1 {
		t.Errorf("holds after the acknowledgement %v", h)
	}
}

func TestPullRefusals(t *testing.T) {
	r := newRig(t, 0, nil)
	r.snapshot(t, "tarn.1", "one")
	for name, c := range map[string]struct {
		change func(*Request)
		class  error
	}{
		"another share":         {func(q *Request) { q.Share = "t" }, ErrDenied},
		"another replica":       {func(q *Request) { q.Replica = "z" }, ErrDenied},
		"another epoch":         {func(q *Request) { q.Epoch = 2 }, ErrEpoch},
		"unknown history":       {func(q *Request) { q.Have = []zfs.GUID{99} }, ErrNoCommon},
		"a token of nobody":     {func(q *Request) { q.Token = "garbage" }, zfs.ErrTokenInvalid},
		"a token of other data": {func(q *Request) { q.Token = `{"To":77,"Name":"x"}` }, zfs.ErrTokenInvalid},
		"a snapshot not here":   {func(q *Request) { q.Want = 55 }, zfs.ErrNotExist},
	} {
		req := r.request()
		c.change(&req)
		_, err := r.client.Pull(t.Context(), req)
		if !errors.Is(err, c.class) {
			t.Errorf("%s: %v, want %v", name, err, c.class)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: told why: %v", name, err)
		}
	}
	if len(r.held(t)) != 0 {
		t.Error("refusals left holds")
	}
	r.src.Address = "127.0.0.1:1"
	if _, err := r.client.Pull(t.Context(), r.request()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("of nobody: %v", err)
	}
}

// wondering is an engine that takes for ever to tell how large a stream is.
type wondering struct{ Engine }

func (wondering) Estimate(ctx context.Context, _ zfs.SendRequest) (int64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// TestEstimateIsACourtesy: the receiver does not wait for one until it gives up.
func TestEstimateIsACourtesy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, begun := &Server{cfg: Config{Board: NewBoard(), Engine: wondering{}}}, time.Now()
		if n := s.estimate(t.Context(), pullBody{Token: "t"}, plan{}, zfs.SendRequest{}); n != 0 {
			t.Errorf("estimated %d", n)
		}
		if took := time.Since(begun); took > answerTimeout/4 {
			t.Errorf("took %v of %v", took, answerTimeout)
		}
	})
}

// TestWantIgnoresTheEpoch: a clone of another share has epochs of its own.
func TestWantIgnoresTheEpoch(t *testing.T) {
	r := newRig(t, 0, nil)
	one := r.snapshot(t, UserPrefix+"x", "one")
	r.snapshot(t, "tarn.2", "two")
	req := r.request()
	req.Epoch, req.Want = 7, one
	p, err := r.client.Pull(t.Context(), req)
	fatal(t, err)
	defer p.Close()
	if p.Step.Kind != KindFull || p.Step.To != one {
		t.Errorf("%+v", p.Step)
	}
}

// failing is a sender that breaks in the middle.
type failing struct{ io.Reader }

func (failing) Close() error {
	return &zfs.Error{Op: "send", Object: "tank/d", Class: zfs.ErrPoolUnavailable}
}

type failingEngine struct{ *memzfs.Host }

func (failingEngine) Send(context.Context, zfs.SendRequest) (zfs.Stream, error) {
	return failing{strings.NewReader("half")}, nil
}

func TestSendersOwnErrorArrives(t *testing.T) {
	r := newRig(t, 0, nil)
	r.snapshot(t, "tarn.1", "one")
	r2 := newRig(t, 0, func(h http.Handler) http.Handler {
		h.(*Server).cfg.Engine = failingEngine{r.fs}
		return h
	})
	p, err := r2.client.Pull(t.Context(), r2.request())
	fatal(t, err)
	data, _ := io.ReadAll(p)
	if err := p.Finish(); !errors.Is(err, zfs.ErrPoolUnavailable) || string(data) != "half" {
		t.Errorf("%q, %v", data, err)
	}
}

// hanging never sends a byte until it is closed.
type hanging struct {
	once chan struct{}
}

func (h hanging) Read([]byte) (int, error) { <-h.once; return 0, io.EOF }
func (h hanging) Close() error             { return nil }

type hangingEngine struct {
	*memzfs.Host
	stream hanging
}

func (e hangingEngine) Send(context.Context, zfs.SendRequest) (zfs.Stream, error) {
	return e.stream, nil
}

func TestStallIsNoticed(t *testing.T) {
	inner := newRig(t, 0, nil)
	inner.snapshot(t, "tarn.1", "one")
	s := hanging{make(chan struct{})}
	r := newRig(t, 50*time.Millisecond, func(h http.Handler) http.Handler {
		h.(*Server).cfg.Engine = hangingEngine{inner.fs, s}
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			h.ServeHTTP(flusher{w}, q)
		})
	})
	defer close(s.once)
	p, err := r.client.Pull(t.Context(), r.request())
	fatal(t, err)
	if _, err := io.ReadAll(p); !errors.Is(err, ErrStalled) {
		t.Errorf("stalled stream: %v", err)
	}
}

// flusher sends headers at once.
type flusher struct{ http.ResponseWriter }

func (f flusher) Unwrap() http.ResponseWriter { return f.ResponseWriter }
func (f flusher) WriteHeader(code int) {
	f.ResponseWriter.WriteHeader(code)
	_ = http.NewResponseController(f.ResponseWriter).Flush()
}

func TestRateLimitHolds(t *testing.T) {
	r := newRig(t, 0, nil)
	r.snapshot(t, "tarn.1", strings.Repeat("x", 300<<10))
	req := r.request()
	req.RateLimit = 1 << 20
	begun := time.Now()
	p, err := r.client.Pull(t.Context(), req)
	fatal(t, err)
	n, err := io.Copy(io.Discard, p)
	fatal(t, err)
	fatal(t, p.Finish())
	// The burst is free, the rest has to take its time: never faster than asked.
	if least := time.Duration(float64(n-(110<<10)) / (1 << 20) * float64(time.Second)); time.Since(begun) < least {
		t.Errorf("%d bytes in %v", n, time.Since(begun))
	}
}

func TestFeedTellsAndAges(t *testing.T) {
	r := newRig(t, 0, nil)
	feed, err := NewFeed(FeedConfig{Client: r.client, Logger: slog.New(slog.DiscardHandler)})
	fatal(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- feed.Run(ctx) }()
	news := make(chan struct{}, 16)
	asOf := time.Now()
	r.board.Publish(head("a", 5, asOf, 0, "peer"))
	fo := feed.Follow(r.src, func() { news <- struct{}{} })
	<-news
	s, ok := fo.Seen()
	if !ok || s.GUID != 5 || s.AsOf.After(asOf) {
		t.Errorf("%+v %v, as of %v", s, ok, asOf)
	}
	r.board.Publish(head("a", 6, time.Now(), 0, "peer"))
	<-news
	if s, _ := fo.Seen(); s.GUID != 6 {
		t.Errorf("%+v", s)
	}
	fo.Stop()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("feed ended with %v", err)
	}
}

// TestFinishHasABound: a sender that does not say how it ended keeps nobody for as long as a
// stream may stand still.
func TestFinishHasABound(t *testing.T) {
	for name, wrap := range map[string]func(*testing.T, hanging) *rig{
		"in TLS": func(t *testing.T, s hanging) *rig {
			return newRig(t, time.Hour, func(h http.Handler) http.Handler {
				h.(*Server).cfg.Engine = hangingEngine{h.(*Server).cfg.Engine.(*memzfs.Host), s}
				return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { h.ServeHTTP(flusher{w}, q) })
			})
		},
		"plain": func(t *testing.T, s hanging) *rig {
			r, _ := plainRig(t, time.Hour, func(h *memzfs.Host) Engine { return hangingEngine{h, s} })
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := hanging{make(chan struct{})}
			r := wrap(t, s)
			defer close(s.once) // before the server is closed, which waits for it
			if name == "in TLS" {
				r.snapshot(t, "tarn.1", "one")
			}
			p, err := r.client.Pull(t.Context(), r.request())
			fatal(t, err)
			p.patience = 20 * time.Millisecond
			if err := p.Finish(); !errors.Is(err, ErrStalled) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}
