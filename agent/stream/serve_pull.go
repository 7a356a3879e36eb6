package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"tarn/zfs"
)

// HoldPrefix and the receiving replica's id make the tag under which a source
// holds base and target of that receiver's last step. The holds stay until the
// next step replaces them, so the newest common snapshot is always held.
const HoldPrefix = "tarn.step."

// CursorPrefix, the GUID of a snapshot and ".<receiving replica>" make the name of
// a bookmark that retention put in the place of that receiver's base.
const CursorPrefix = "tarn.c."

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
	p, err := s.prepare(r.Context(), g.Dataset, req)
	if err != nil {
		s.fail(w, err)
		return
	}
	// On ZFS each of these waits for a transaction group: the stream does not.
	var tidy sync.WaitGroup
	tidy.Go(func() { s.letGo(r.Context(), req.Replica, p.passed) })
	defer tidy.Wait()
	w.Header().Set("Content-Type", "application/octet-stream")
	p.step.Age = s.cfg.Board.age(req.Source, p.step.To, time.Now())
	if p.step.UpToDate() {
		w.Header().Set(headerStep, string(encode(p.step)))
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.send(w, r, g.Dataset, req, p)
}

// prepare plans a step and holds what it needs. A snapshot that vanishes between
// the two is planned around once.
func (s *Server) prepare(ctx context.Context, dataset string, req pullBody) (plan, error) {
	for attempt := 0; ; attempt++ {
		versions, err := s.cfg.Engine.Versions(ctx, dataset)
		if err != nil {
			return plan{}, fmt.Errorf("list versions: %w", err)
		}
		p, err := s.choose(ctx, versions, req)
		if err != nil {
			return plan{}, err
		}
		p.passed, err = s.hold(ctx, versions, req, p)
		if err == nil {
			s.acked(req)
			return p, nil
		}
		if attempt > 0 || !errors.Is(err, zfs.ErrNotExist) {
			return plan{}, fmt.Errorf("hold base and target: %w", err)
		}
	}
}

func (s *Server) choose(ctx context.Context, versions []zfs.Version, req pullBody) (plan, error) {
	switch {
	case req.Token != "":
		info, err := s.cfg.Engine.DecodeToken(ctx, req.Token)
		if err != nil {
			return plan{}, fmt.Errorf("decode resume token: %v: %w", err, zfs.ErrTokenInvalid)
		}
		return chooseResume(versions, info)
	case req.Want != 0:
		return chooseExact(versions, req.Want)
	}
	return choose(versions, req.Have)
}

// hold protects base and target of p for the receiver, and tells what its earlier
// steps left: that is let go of later, so that no crash leaves nothing.
func (s *Server) hold(ctx context.Context, versions []zfs.Version, req pullBody, p plan) (passed, error) {
	var keep []string
	var old passed
	for _, v := range versions {
		switch {
		case v.Kind == zfs.KindBookmark:
			mine := v.Name == CursorPrefix+v.GUID.String()+"."+req.Replica
			// The receiver said that it has something newer.
			if mine && v.GUID != p.base.GUID && v.CreateTXG < p.base.CreateTXG {
				old.cursors = append(old.cursors, v.FullName())
			}
		case v.GUID == p.base.GUID || v.GUID == p.to.GUID:
			keep = append(keep, v.FullName())
		case v.UserRefs > 0:
			old.held = append(old.held, v.FullName())
		}
	}
	if len(keep) == 0 {
		return old, nil
	}
	return old, s.cfg.Engine.Hold(ctx, HoldPrefix+req.Replica, keep...)
}

// passed is what a receiver's earlier steps needed here and this one does not.
type passed struct{ held, cursors []string }

// letGo releases it. What fails is tried again with the next step.
func (s *Server) letGo(ctx context.Context, replica string, old passed) {
	if len(old.held) > 0 {
		err := s.cfg.Engine.Release(ctx, HoldPrefix+replica, old.held...)
		if err != nil && !errors.Is(err, zfs.ErrNotExist) {
			s.cfg.Logger.Warn("release earlier steps", "replica", replica, "err", err)
		}
	}
	for _, cursor := range old.cursors {
		if err := s.cfg.Engine.DestroyBookmark(ctx, cursor); err != nil && !errors.Is(err, zfs.ErrNotExist) {
			s.cfg.Logger.Warn("remove passed cursor", "bookmark", cursor, "err", err)
		}
	}
}

func (s *Server) acked(req pullBody) {
	if s.cfg.Acked != nil && len(req.Have) > 0 {
		s.cfg.Acked(Ack{Share: req.Share, Source: req.Source, Replica: req.Replica, GUID: req.Have[0]})
	}
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, dataset string, req pullBody, p plan) {
	sr := sendRequest(dataset, req.Token, p)
	if n, err := s.cfg.Engine.Estimate(r.Context(), sr); err == nil {
		p.step.Estimate = n
	}
	src, err := s.cfg.Engine.Send(r.Context(), sr)
	if err != nil {
		s.fail(w, fmt.Errorf("start send: %w", err))
		return
	}
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

func sendRequest(dataset, token string, p plan) zfs.SendRequest {
	if token != "" {
		return zfs.SendRequest{ResumeToken: token}
	}
	sr := zfs.SendRequest{Dataset: dataset, To: p.to.Name}
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
