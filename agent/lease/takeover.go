package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"
)

// One helper guards per agent directory. A restarted agent starts a new one,
// which asks the old over a socket for what is armed, confirms, and so lets it
// end: nothing is unguarded in between, and no old deadline cuts a new lease.

const (
	socketName = "deadman.sock"
	// takeoverPatience: an old helper that does not answer is stopped or dead.
	takeoverPatience = time.Second
)

// inherit asks an earlier helper for what it has armed. None answering is the normal case.
func inherit(ctx context.Context, dir string, patience time.Duration, logger *slog.Logger) []Armed {
	var armed []Armed
	err := withSocket(dir, func(path string) (err error) {
		armed, err = askOver(ctx, path, patience)
		return err
	})
	switch {
	case err == nil:
		logger.Info("dead-man took over from an earlier one", "armed", len(armed))
	case !errors.Is(err, os.ErrNotExist):
		logger.Debug("no earlier dead-man answers", "err", err)
	}
	return armed
}

func askOver(ctx context.Context, path string, patience time.Duration) ([]Armed, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("reach earlier dead-man: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, fmt.Errorf("reach earlier dead-man: %w", err)
	}
	if err := writeLine(conn, order{HandOver: true}); err != nil {
		return nil, err
	}
	a, err := hear(conn)
	if err != nil {
		return nil, err
	}
	// Only after this line does the other let go.
	return a.Armed, writeLine(conn, order{HandOver: true})
}

func hear(conn net.Conn) (a answer, err error) {
	scanner := lines(conn)
	if !scanner.Scan() {
		return answer{}, fmt.Errorf("earlier dead-man hung up: %w", scanner.Err())
	}
	if err := json.Unmarshal(scanner.Bytes(), &a); err != nil {
		return answer{}, fmt.Errorf("%w: %w", errMessage, err)
	}
	return a, nil
}

// listen lets a successor take over. stop closes and removes the socket.
func (h *helper) listen(ctx context.Context) (stop func(), err error) {
	var listener net.Listener
	err = withSocket(h.config.Dir, func(path string) (err error) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove old dead-man socket: %w", err)
		}
		listener, err = new(net.ListenConfig).Listen(ctx, "unix", path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open dead-man socket: %w", err)
	}
	// Removal by name at close would remove a successor's socket.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	go h.accept(ctx, listener)
	return func() { _ = listener.Close() }, nil
}

func (h *helper) accept(ctx context.Context, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		h.serve(ctx, conn)
	}
}

// serve hands over to one successor; one that breaks off changes nothing.
func (h *helper) serve(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(takeoverPatience)); err != nil {
		return
	}
	scanner := lines(conn)
	next := handover{list: make(chan []Armed, 1), taken: make(chan struct{})}
	if !handOverLine(scanner.Scan(), scanner.Bytes()) {
		return
	}
	select {
	case h.handover <- next:
	case <-ctx.Done():
		return
	}
	if err := writeLine(conn, answer{Armed: <-next.list}); err != nil {
		return
	}
	if handOverLine(scanner.Scan(), scanner.Bytes()) {
		close(next.taken)
	}
}

func handOverLine(read bool, line []byte) bool {
	if !read {
		return false
	}
	o, err := decodeOrder(line)
	return err == nil && o.HandOver
}

// withSocket calls use with a path that fits a socket address (108 bytes) however
// long dir is: through a descriptor of the directory.
func withSocket(dir string, use func(path string) error) error {
	path := filepath.Join(dir, socketName)
	if len(path) < 100 {
		return use(path)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open dead-man directory: %w", err)
	}
	defer func() { _ = d.Close() }()
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName))
}
