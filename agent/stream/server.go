package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"tarn/zfs"
)

// Planner is what the server asks of the storage before it sends.
type Planner interface {
	Versions(ctx context.Context, dataset string) ([]zfs.Version, error)
	DecodeToken(ctx context.Context, token string) (zfs.TokenInfo, error)
	Estimate(ctx context.Context, req zfs.SendRequest) (int64, error)
}

// Holder keeps bases of increments, and lets them go.
type Holder interface {
	Hold(ctx context.Context, tag string, snapshots ...string) error
	Release(ctx context.Context, tag string, snapshots ...string) error
	DestroyBookmark(ctx context.Context, bookmark string) error
}

// Sender makes streams.
type Sender interface {
	Send(ctx context.Context, req zfs.SendRequest) (zfs.Stream, error)
}

// Engine is the storage as the server needs it.
type Engine interface {
	Planner
	Holder
	Sender
}

// Grant is what a peer may pull.
type Grant struct {
	// Dataset that holds the source replica.
	Dataset string
	// Epoch that the source acts under; the receiver's must be equal.
	Epoch uint64
	// Raw: the share is encrypted, and its streams carry the blocks as they lie.
	Raw bool
	// Flags of the streams by which the source got its own data (zfs.StreamFlags);
	// empty when it never received any.
	Flags string
	// Replicas of the peer that may receive; nil: any.
	Replicas []string
}

// Ack says which snapshot a receiver said it holds.
type Ack struct {
	Share   string
	Source  string // replica pulled from
	Replica string // replica that receives
	GUID    zfs.GUID
}

// Config of a Server. Engine, Board, Authorize and PeerID are required.
type Config struct {
	Engine Engine
	Board  *Board
	// Authorize decides if a host may pull from a replica of this host. Its error
	// is logged, the peer hears ErrDenied only.
	Authorize func(peerHostID, shareID, sourceReplicaID string) (Grant, error)
	// PeerID is the host id in the client's certificate.
	PeerID func(*http.Request) (string, error)
	// Listed gives the versions of a source replica as they were listed last, nil when
	// that is not known; optional. It may be old: what it names is looked for again.
	Listed func(sourceReplicaID string) []zfs.Version
	// Can tells which flags of streams Engine sends; nil: plain streams only. It must
	// not block.
	Can func() zfs.StreamFlags
	// Acked hears of every receiver's newest snapshot; optional.
	Acked func(Ack)
	// Sent hears of stream bytes as they leave; optional. It must not block.
	Sent func(shareID, sourceReplicaID string, n int64)
	// StallTimeout ends a stream of which the receiver takes no byte for so long. 0: 10 minutes.
	StallTimeout time.Duration
	// Door takes the connections of plain streams; nil: every stream is inside TLS.
	Door *Door
	// MaxStreams run at once; further ones wait. 0: 64.
	MaxStreams int
	// Logger is required.
	Logger *slog.Logger
}

// DefaultStall is how long a stream may stand still: transaction groups of a
// busy pool stop receives for tens of seconds (zfs replication 3.15).
const DefaultStall = 10 * time.Minute

const defaultStreams = 64

// Server answers other agents. It is an http.Handler for /v1/heads and /v1/pull,
// safe for concurrent use.
type Server struct {
	cfg     Config
	mux     *http.ServeMux
	slots   chan struct{}
	buffers *sync.Pool

	mu    sync.Mutex
	steps map[string]map[string]stood // by source and receiving replica: not settled yet
}

// NewServer checks cfg and returns a handler; it starts nothing.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Engine == nil || cfg.Board == nil || cfg.Authorize == nil || cfg.PeerID == nil || cfg.Logger == nil {
		return nil, fmt.Errorf("stream server needs engine, board, authorize, peer id and logger: %w", zfs.ErrInvalid)
	}
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = DefaultStall
	}
	if cfg.Sent == nil {
		cfg.Sent = func(string, string, int64) {}
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = defaultStreams
	}
	s := &Server{
		cfg: cfg, mux: http.NewServeMux(), slots: make(chan struct{}, cfg.MaxStreams),
		buffers: newBuffers(), steps: map[string]map[string]stood{},
	}
	s.mux.HandleFunc("POST "+pathHeads, s.heads)
	s.mux.HandleFunc("POST "+pathPull, s.pull)
	return s, nil
}

// newBuffers pools *[]byte of bufferSize: most streams are far smaller.
func newBuffers() *sync.Pool {
	return &sync.Pool{New: func() any { return new(make([]byte, bufferSize)) }}
}

// ServeHTTP dispatches by path.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) heads(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	peer, err := s.cfg.PeerID(r)
	if err != nil {
		s.fail(w, fmt.Errorf("identify peer: %v: %w", err, ErrDenied))
		return
	}
	req, err := decodeHeads(r.Body)
	if err != nil {
		s.fail(w, err)
		return
	}
	a, ok := s.waitHeads(r.Context(), peer, req)
	if !ok {
		return
	}
	a.Held = int64(time.Since(begun))
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(encode(a)); err != nil {
		s.cfg.Logger.Debug("answer heads poll", "peer", peer, "err", err)
	}
}

// waitHeads blocks until there is news for peer or the wait is over; ok is false
// when the peer went away.
func (s *Server) waitHeads(ctx context.Context, peer string, req headsBody) (a headsAnswer, ok bool) {
	timer := time.NewTimer(req.wait())
	defer timer.Stop()
	for {
		a, news, changed := s.cfg.Board.answer(peer, req, time.Now())
		if news {
			return a, true
		}
		select {
		case <-changed:
		case <-timer.C:
			a, _, _ = s.cfg.Board.answer(peer, req, time.Now())
			return a, true
		case <-ctx.Done():
			return a, false
		}
	}
}

func (s *Server) fail(w http.ResponseWriter, err error) {
	text := err
	if errors.Is(err, ErrDenied) {
		// Why is nobody's business who is not allowed.
		s.cfg.Logger.Warn("refused a peer", "err", err)
		text = ErrDenied
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(httpStatus(err))
	if _, werr := w.Write(encodeError(text)); werr != nil {
		s.cfg.Logger.Debug("answer with error", "err", werr)
	}
}

// grant checks who asks and under which epoch.
func (s *Server) grant(r *http.Request, req pullBody) (Grant, error) {
	peer, err := s.cfg.PeerID(r)
	if err != nil {
		return Grant{}, fmt.Errorf("identify peer: %v: %w", err, ErrDenied)
	}
	g, err := s.cfg.Authorize(peer, req.Share, req.Source)
	if err != nil {
		return Grant{}, fmt.Errorf("authorize host %s for replica %s: %v: %w", peer, req.Source, err, ErrDenied)
	}
	if g.Replicas != nil && !slices.Contains(g.Replicas, req.Replica) {
		return Grant{}, fmt.Errorf("replica %s is not of host %s: %w", req.Replica, peer, ErrDenied)
	}
	// A share made from this one's snapshot counts epochs of its own.
	if req.Want == 0 && g.Epoch != req.Epoch {
		return Grant{}, fmt.Errorf("source is in epoch %d, receiver in %d: %w", g.Epoch, req.Epoch, ErrEpoch)
	}
	return g, nil
}
