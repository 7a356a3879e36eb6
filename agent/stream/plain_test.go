package stream

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"tarn/agent/stream/memzfs"
	"tarn/zfs"
)

// pipeStream comes out of a pipe, as that of zfs send does.
type pipeStream struct{ r *os.File }

func (p pipeStream) Read(b []byte) (int, error) { return p.r.Read(b) }
func (p pipeStream) Close() error               { return p.r.Close() }
func (p pipeStream) File() *os.File             { return p.r }

// pipeEngine sends data through a pipe, at most chunk bytes at once.
type pipeEngine struct {
	*memzfs.Host
	data  []byte
	chunk int
}

func (e pipeEngine) Send(context.Context, zfs.SendRequest) (zfs.Stream, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer w.Close() //nolint:errcheck // the reader sees what arrived
		for rest := e.data; len(rest) > 0; {
			n, err := w.Write(rest[:min(len(rest), e.chunk)])
			if err != nil {
				return
			}
			rest = rest[n:]
		}
	}()
	return pipeStream{r}, nil
}

// plainRig is a rig whose two sides trust the loopback.
func plainRig(t *testing.T, stall time.Duration, e func(*memzfs.Host) Engine) (*rig, *Door) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(t, err)
	door, err := NewDoor(PlainConfig{
		Listener: l, Advertise: l.Addr().String(), Networks: loopback(), Logger: slog.New(slog.DiscardHandler),
	})
	fatal(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- door.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("door ended with %v", err)
		}
	})
	r := newRig(t, stall, func(h http.Handler) http.Handler {
		s := h.(*Server)
		s.cfg.Door = door
		s.cfg.Engine = e(s.cfg.Engine.(*memzfs.Host))
		return h
	})
	r.client.cfg.PlainNetworks = loopback()
	r.snapshot(t, "tarn.1", "one")
	return r, door
}

func loopback() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

func random(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := rand.Read(b)
	fatal(t, err)
	return b
}

// TestPlainStreamThroughPipes: from pipe to socket to pipe, in chunks that fill
// neither, and in ones that fill both, with a slow reader behind.
func TestPlainStreamThroughPipes(t *testing.T) {
	for name, chunk := range map[string]int{"large": 4 << 20, "odd": 77_777, "tiny": 100} {
		t.Run(name, func(t *testing.T) {
			data := random(t, 300_000*min(chunk, 30)+chunk)
			r, _ := plainRig(t, 0, func(h *memzfs.Host) Engine { return pipeEngine{h, data, chunk} })
			p, err := r.client.Pull(t.Context(), r.request())
			fatal(t, err)
			if p.plain == nil {
				t.Fatal("the stream is inside TLS")
			}
			pr, pw, err := os.Pipe()
			fatal(t, err)
			got := make(chan []byte, 1)
			go func() {
				all, _ := io.ReadAll(pr)
				got <- all
			}()
			var moved int
			p.Moved = func(n int) { moved += n }
			n, err := io.Copy(pw, p)
			fatal(t, err)
			fatal(t, pw.Close())
			fatal(t, p.Finish())
			if all := <-got; !bytes.Equal(all, data) || n != int64(len(data)) || moved != len(data) || p.Bytes() != n {
				t.Errorf("%d bytes became %d, told %d and %d", len(data), len(all), n, moved)
			}
		})
	}
}

// TestReceiverThatEndsIsNoBrokenStream: what zfs receive says explains it.
func TestReceiverThatEndsIsNoBrokenStream(t *testing.T) {
	r, _ := plainRig(t, 0, func(h *memzfs.Host) Engine { return pipeEngine{h, random(t, 4<<20), 1 << 20} })
	p, err := r.client.Pull(t.Context(), r.request())
	fatal(t, err)
	defer p.Close()
	pr, pw, err := os.Pipe()
	fatal(t, err)
	defer pw.Close() //nolint:errcheck // nobody reads it
	fatal(t, pr.Close())
	if _, err := io.Copy(pw, p); !errors.Is(err, syscall.EPIPE) || errors.Is(err, ErrUnreachable) {
		t.Errorf("the reader of the pipe is gone: %v", err)
	}
}

// TestPlainStreamWithoutPipes takes the way through buffers.
func TestPlainStreamWithoutPipes(t *testing.T) {
	r, _ := plainRig(t, 0, func(h *memzfs.Host) Engine { return h })
	req := r.request()
	req.RateLimit = 1 << 20
	p, err := r.client.Pull(t.Context(), req)
	fatal(t, err)
	data, err := io.ReadAll(p)
	fatal(t, err)
	fatal(t, p.Finish())
	if p.plain == nil || !bytes.Contains(data, []byte("one")) {
		t.Errorf("%q, plain %v", data, p.plain != nil)
	}
}

func TestPlainRateLimitHolds(t *testing.T) {
	data := random(t, 400<<10)
	r, _ := plainRig(t, 0, func(h *memzfs.Host) Engine { return pipeEngine{h, data, 1 << 20} })
	req := r.request()
	req.RateLimit = 1 << 20
	begun := time.Now()
	p, err := r.client.Pull(t.Context(), req)
	fatal(t, err)
	pr, pw, err := os.Pipe()
	fatal(t, err)
	go func() { _, _ = io.Copy(io.Discard, pr) }()
	n, err := io.Copy(pw, p)
	fatal(t, err)
	fatal(t, pw.Close())
	fatal(t, p.Finish())
	if least := time.Duration(float64(n-(110<<10)) / (1 << 20) * float64(time.Second)); time.Since(begun) < least {
		t.Errorf("%d bytes in %v", n, time.Since(begun))
	}
}

// TestPlainEndIsTold: without the sender's word the end of a connection is no end.
func TestPlainEndIsTold(t *testing.T) {
	r, _ := plainRig(t, 0, func(h *memzfs.Host) Engine { return failingEngine{h} })
	p, err := r.client.Pull(t.Context(), r.request())
	fatal(t, err)
	data, _ := io.ReadAll(p)
	if err := p.Finish(); !errors.Is(err, zfs.ErrPoolUnavailable) || string(data) != "half" || p.plain == nil {
		t.Errorf("%q, %v", data, err)
	}
}

func TestPlainStallIsNoticed(t *testing.T) {
	s := hanging{make(chan struct{})}
	r, _ := plainRig(t, 50*time.Millisecond, func(h *memzfs.Host) Engine { return hangingEngine{h, s} })
	defer close(s.once)
	p, err := r.client.Pull(t.Context(), r.request())
	fatal(t, err)
	pr, pw, err := os.Pipe()
	fatal(t, err)
	defer pr.Close() //nolint:errcheck // a test's pipe
	if _, err := io.Copy(pw, p); !errors.Is(err, ErrStalled) {
		t.Errorf("stalled stream: %v", err)
	}
	p.Close()
}

// TestPlainCancelEndsBoth: a receiver that goes away while pipes and sockets are full.
func TestPlainCancelEndsBoth(t *testing.T) {
	data := random(t, 32<<20)
	r, door := plainRig(t, 0, func(h *memzfs.Host) Engine { return pipeEngine{h, data, 1 << 20} })
	ctx, cancel := context.WithCancel(t.Context())
	p, err := r.client.Pull(ctx, r.request())
	fatal(t, err)
	pr, pw, err := os.Pipe()
	fatal(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(pw, p)
		ended <- err
	}()
	_, err = io.ReadFull(pr, make([]byte, 1<<20))
	fatal(t, err)
	cancel()
	fatal(t, pr.Close())
	if err := <-ended; err == nil {
		t.Error("a cancelled stream ended well")
	}
	p.Close()
	door.mu.Lock()
	defer door.mu.Unlock()
	if len(door.tickets) != 0 {
		t.Errorf("%d tickets are left", len(door.tickets))
	}
}

// TestBlockedPlainPortFallsBack: TLS serves at once, and for a while.
func TestBlockedPlainPortFallsBack(t *testing.T) {
	r, door := plainRig(t, 0, func(h *memzfs.Host) Engine { return h })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(t, err)
	door.cfg.Advertise = l.Addr().String()
	fatal(t, l.Close())
	for range 2 {
		p, err := r.client.Pull(t.Context(), r.request())
		fatal(t, err)
		data, err := io.ReadAll(p)
		fatal(t, err)
		fatal(t, p.Finish())
		if p.plain != nil || !bytes.Contains(data, []byte("one")) {
			t.Errorf("%q, plain %v", data, p.plain != nil)
		}
	}
}

// TestRefusedPlainConnectionFallsBack: a receiver whose plain connection comes from another
// address than its TLS one is not let in. It learns that by getting nothing, and goes on
// over TLS.
func TestRefusedPlainConnectionFallsBack(t *testing.T) {
	r, door := plainRig(t, 0, func(h *memzfs.Host) Engine { return h })
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(t, err)
	t.Cleanup(func() { _ = refusing.Close() })
	go func() {
		for {
			conn, err := refusing.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	door.cfg.Advertise = refusing.Addr().String()
	p, err := r.client.Pull(t.Context(), r.request())
	fatal(t, err)
	if data, _ := io.ReadAll(p); p.plain == nil || len(data) > 0 {
		t.Fatalf("%q came, plain %v", data, p.plain != nil)
	}
	p.Close()
	p, err = r.client.Pull(t.Context(), r.request())
	fatal(t, err)
	data, err := io.ReadAll(p)
	fatal(t, err)
	fatal(t, p.Finish())
	if p.plain != nil || !bytes.Contains(data, []byte("one")) {
		t.Errorf("%q, plain %v", data, p.plain != nil)
	}
}

// TestSourceCannotSendReceiversAnywhere: what it offers has to be in a network
// that the receiver trusts.
func TestSourceCannotSendReceiversAnywhere(t *testing.T) {
	r, door := plainRig(t, 0, func(h *memzfs.Host) Engine { return h })
	door.cfg.Advertise = "192.0.2.1:1"
	p, err := r.client.Pull(t.Context(), r.request())
	fatal(t, err)
	defer p.Close()
	if p.plain != nil {
		t.Error("it connected")
	}
}

func TestTickets(t *testing.T) {
	_, door := plainRig(t, 0, func(h *memzfs.Host) Engine { return h })
	knock := func(content []byte) net.Conn {
		conn, err := net.Dial("tcp", door.cfg.Listener.Addr().String())
		fatal(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = conn.Write(content)
		fatal(t, err)
		return conn
	}
	refused := func(name string, conn net.Conn) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s was not refused: %v", name, err)
		}
	}
	refused("a made-up ticket", knock(make([]byte, ticketBytes)))
	good, place := door.issue("127.0.0.1:99")
	knock(good[:])
	conn, err := place.await(t.Context())
	fatal(t, err)
	fatal(t, conn.Close())
	refused("a used ticket", knock(good[:]))
	other, late := door.issue("127.0.0.9:99")
	refused("another host's ticket", knock(other[:]))
	refused("a ticket that another host had shown", knock(other[:]))
	door.forget(other, late)
	if door.trusts("192.0.2.1:5") || door.trusts("nonsense") || (*Door)(nil).trusts("127.0.0.1:1") || !door.trusts("[::ffff:127.0.0.1]:5") {
		t.Error("trust is judged wrongly")
	}
}

func TestDoorIsChecked(t *testing.T) {
	for _, cfg := range []PlainConfig{
		{}, {Listener: &net.TCPListener{}, Logger: slog.Default(), Networks: loopback(), Advertise: "name:1"},
		{Listener: &net.TCPListener{}, Logger: slog.Default(), Advertise: "127.0.0.1:1"},
	} {
		if _, err := NewDoor(cfg); !errors.Is(err, zfs.ErrInvalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// countingInlet is a pipe that wants to know what was spliced into it.
type countingInlet struct {
	w     *os.File
	given int
}

func (c *countingInlet) Write([]byte) (int, error) { return 0, errors.New("the bytes were copied") }
func (c *countingInlet) File() *os.File            { return c.w }
func (c *countingInlet) Gave(n int)                { c.given += n }

// TestInletHearsWhatIsSpliced: whoever watches a receive sees by what goes in whether it
// still takes anything.
func TestInletHearsWhatIsSpliced(t *testing.T) {
	data := random(t, 3<<20)
	r, _ := plainRig(t, 0, func(h *memzfs.Host) Engine { return pipeEngine{h, data, 1 << 20} })
	p, err := r.client.Pull(t.Context(), r.request())
	fatal(t, err)
	pr, pw, err := os.Pipe()
	fatal(t, err)
	got := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(pr)
		got <- all
	}()
	in := &countingInlet{w: pw}
	n, err := io.Copy(in, p)
	fatal(t, errors.Join(err, pw.Close(), p.Finish()))
	if all := <-got; !bytes.Equal(all, data) || in.given != len(data) || n != int64(len(data)) {
		t.Errorf("%d bytes became %d, the pipe was told of %d", len(data), len(all), in.given)
	}
}
