package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"tarn/zfs"
)

// plainOffer is the value of the header that says where the bytes are.
type plainOffer struct {
	Address string `json:"address"`
	Ticket  []byte `json:"ticket"`
}

// filer is a stream that comes out of a pipe; package zfs has it.
type filer interface{ File() *os.File }

// deliverPlain answers with a ticket and moves the stream through the connection
// that brings it back. The answer stays open: its trailer says how it ended.
func (s *Server) deliverPlain(w http.ResponseWriter, r *http.Request, src zfs.Stream, moved func(n int)) (int64, error) {
	t, place := s.cfg.Door.issue(r.RemoteAddr)
	defer s.cfg.Door.forget(t, place)
	w.Header().Set(headerPlain, string(encode(plainOffer{Address: s.cfg.Door.cfg.Advertise, Ticket: t[:]})))
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return 0, fmt.Errorf("offer plain stream: %v: %w", err, ErrUnreachable)
	}
	conn, err := place.await(r.Context())
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(r.Context(), func() { _ = conn.Close() })
	defer stop()
	n, err := s.movePlain(conn, src, moved)
	if cerr := conn.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("end plain stream: %v: %w", cerr, ErrUnreachable)
	}
	return n, err
}

func (s *Server) movePlain(conn *net.TCPConn, src zfs.Stream, moved func(n int)) (int64, error) {
	arm := func() { _ = conn.SetWriteDeadline(time.Now().Add(s.cfg.StallTimeout)) }
	var sp *splicer
	if f, ok := src.(filer); ok {
		sp = newSplicer(conn, f.File())
	}
	if sp == nil {
		return s.copy(conn, src, arm, moved)
	}
	var total int64
	for {
		n, err := sp.move(spliceChunk, arm)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, fmt.Errorf("move stream: %v: %w", err, ErrUnreachable)
		}
		total += int64(n)
		moved(n)
	}
}
