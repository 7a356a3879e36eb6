package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"tarn/zfs"
)

// bufferSize of copies: a stream's cost is dominated by the number of wake-ups; 64
// streams at once must not cost an idle host its memory.
const bufferSize = 256 << 10

func (s *Server) pull(w http.ResponseWriter, r *http.Request) {
	req, err := decodePull(r.Body)
	if err != nil {
		s.fail(w, err)
		return
	}
	g, err := s.grant(r, req)
	if err != nil {
		s.fail(w, err)
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-r.Context().Done():
		return
	}
	p, src, err := s.prepare(r.Context(), g, req)
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	p.step.Age = s.cfg.Board.age(req.Source, p.step.To, time.Now())
	if p.step.UpToDate() {
		w.Header().Set(headerStep, string(encode(p.step)))
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.send(w, r, req, p, src)
}

// prepare plans a step and starts its stream, which is nil when there is nothing
// to send. It plans from what its host listed last, which costs nothing, and from
// a new list where that has nothing new or something is not there any more.
func (s *Server) prepare(ctx context.Context, g Grant, req pullBody) (plan, zfs.Stream, error) {
	if s.cfg.Listed != nil && req.Token == "" && req.Want == 0 {
		if versions := s.cfg.Listed(req.Source); len(versions) > 0 {
			p, src, err := s.begin(ctx, g, versions, req)
			if err == nil && src != nil {
				return p, src, nil
			}
		}
	}
	for attempt := 0; ; attempt++ {
		versions, err := s.cfg.Engine.Versions(ctx, g.Dataset)
		if err != nil {
			return plan{}, nil, fmt.Errorf("list versions: %w", err)
		}
		p, src, err := s.begin(ctx, g, versions, req)
		vanished := errors.Is(err, zfs.ErrNotExist) || errors.Is(err, zfs.ErrBaseMissing)
		if attempt > 0 || !vanished || req.Want != 0 {
			return p, src, err
		}
	}
}

// begin chooses the step and starts the sender. From then on the storage itself
// keeps the snapshots that are being sent.
func (s *Server) begin(ctx context.Context, g Grant, versions []zfs.Version, req pullBody) (plan, zfs.Stream, error) {
	p, err := s.choose(ctx, versions, g, req)
	if err != nil {
		return p, nil, err
	}
	if p.step.UpToDate() {
		s.began(req, p)
		return p, nil, nil
	}
	flags, err := s.flags(ctx, g, req)
	if err != nil {
		return p, nil, err
	}
	p.step.Flags = flags.String()
	sr := sendRequest(g, req.Token, p, flags)
	p.step.Estimate = s.estimate(ctx, req, p, sr)
	src, err := s.cfg.Engine.Send(ctx, sr)
	if err != nil {
		return p, nil, fmt.Errorf("start send: %w", err)
	}
	s.began(req, p)
	return p, src, nil
}

// worthAsking is from how many bytes on a better estimate is worth a process: below,
// the stream ends before anybody looks at its progress.
const worthAsking = 64 << 20

// estimatePatience bounds the question for an estimate. From an old bookmark zfs reads the
// whole tree of blocks for it, which may take longer than the receiver waits for its answer.
const estimatePatience = 15 * time.Second

// estimate is the size of a step in bytes, 0 when unknown.
func (s *Server) estimate(ctx context.Context, req pullBody, p plan, sr zfs.SendRequest) int64 {
	if n := s.cfg.Board.froze(req.Source, p.base.GUID, p.to.GUID); n >= 0 && n < worthAsking && req.Token == "" {
		return n
	}
	ctx, cancel := context.WithTimeout(ctx, estimatePatience)
	defer cancel()
	n, err := s.cfg.Engine.Estimate(ctx, sr)
	if err != nil {
		return 0
	}
	return n
}

// began tells who has to know that the receiver has the base of p.
func (s *Server) began(req pullBody, p plan) {
	if s.cfg.Acked != nil && len(req.Have) > 0 {
		s.cfg.Acked(Ack{Share: req.Share, Source: req.Source, Replica: req.Replica, GUID: req.Have[0]})
	}
	s.note(req, p)
}

func (s *Server) choose(ctx context.Context, versions []zfs.Version, g Grant, req pullBody) (plan, error) {
	switch {
	case req.Token != "":
		info, err := s.cfg.Engine.DecodeToken(ctx, req.Token)
		if err != nil {
			return plan{}, fmt.Errorf("decode resume token: %v: %w", err, zfs.ErrTokenInvalid)
		}
		if info.Flags.Raw != g.Raw {
			return plan{}, fmt.Errorf("token is of a stream whose rawness is %v, the share's is %v: %w", info.Flags.Raw, g.Raw, zfs.ErrTokenInvalid)
		}
		return chooseResume(g.Dataset, versions, info)
	case req.Want != 0:
		return chooseExact(versions, req.Want)
	}
	return choose(versions, req.Have)
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, req pullBody, p plan, src zfs.Stream) {
	w.Header().Set("Trailer", headerResult)
	w.Header().Set(headerStep, string(encode(p.step)))
	n, err := s.deliver(w, r, req, src)
	if cerr := src.Close(); cerr != nil {
		// The sender's own words say more than what its reader saw.
		err = cerr
	}
	log := s.cfg.Logger.With("share", req.Share, "replica", req.Replica, "from", p.step.From, "to", p.step.To, "bytes", n)
	if err != nil {
		w.Header().Set(headerResult, string(encodeError(err)))
		log.Warn("stream ended early", "err", err)
		return
	}
	w.Header().Set(headerResult, "ok")
	log.Debug("stream sent", "kind", p.step.Kind)
}

// deliver moves the stream to the receiver: in the answer's body, or beside it
// where both sides trust the network.
func (s *Server) deliver(w http.ResponseWriter, r *http.Request, req pullBody, src zfs.Stream) (int64, error) {
	moved := func(n int) { s.cfg.Sent(req.Share, req.Source, int64(n)) }
	if req.Plain && s.cfg.Door.trusts(r.RemoteAddr) {
		return s.deliverPlain(w, r, src, moved)
	}
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }() // the connection is reused
	// Not supported by the connection: the receiver watches, too.
	return s.copy(w, src, func() { _ = rc.SetWriteDeadline(time.Now().Add(s.cfg.StallTimeout)) }, moved)
}

func sendRequest(g Grant, token string, p plan, flags zfs.StreamFlags) zfs.SendRequest {
	if token != "" {
		return zfs.SendRequest{ResumeToken: token}
	}
	sr := zfs.SendRequest{Dataset: g.Dataset, To: p.to.Name, Flags: flags}
	if p.base.GUID != 0 {
		mark := "@"
		if p.base.Kind == zfs.KindBookmark {
			mark = "#"
		}
		sr.From = mark + p.base.Name
	}
	return sr
}

// copy moves the stream; arm is called before each write, which must make
// progress within the stall limit.
func (s *Server) copy(w io.Writer, src io.Reader, arm func(), moved func(n int)) (int64, error) {
	pooled := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(pooled)
	buf := *pooled
	var total int64
	for {
		n, rerr := src.Read(buf)
		if n > 0 {
			arm()
			if _, err := w.Write(buf[:n]); err != nil {
				return total, fmt.Errorf("write stream: %v: %w", err, ErrUnreachable)
			}
			total += int64(n)
			moved(n)
		}
		switch {
		case errors.Is(rerr, io.EOF):
			return total, nil
		case rerr != nil:
			return total, fmt.Errorf("read from sender: %w", rerr)
		}
	}
}
