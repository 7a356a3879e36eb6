package replicate

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"tarn/agent/stream"
)

func (h *testHost) serve(ctx context.Context, srv *stream.Server, log *slog.Logger) error {
	l, err := h.listen(ctx)
	if err != nil {
		return err
	}
	hs := &http.Server{Handler: h.cut.handler(srv), ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stopped := context.AfterFunc(ctx, func() { _ = hs.Close() })
	defer stopped()
	err = hs.Serve(tls.NewListener(l, h.tls.ServerConfig("http/1.1")))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// listen takes the host's address, again after a kill. A program that was being started at
// that moment holds the earlier socket until it runs.
func (h *testHost) listen(ctx context.Context) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := net.Listen("tcp", h.addr)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}
