package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// DefaultAdminAddr is where an admin listener binds when told nothing: loopback,
// any free port.
const DefaultAdminAddr = "127.0.0.1:0"

// adminDrain bounds the wait for scrapes under way when the process ends.
const adminDrain = 2 * time.Second

// Admin is the plain HTTP listener for machines that watch a process: /metrics,
// /livez and /readyz, and /debug/pprof if allowed. It has no authentication and
// changes nothing; it belongs on loopback or a management network.
type Admin struct {
	// Addr is host:port; empty is DefaultAdminAddr.
	Addr string
	// Listener, if set, is used instead of Addr and closed by Run.
	Listener net.Listener
	// Gatherer is what /metrics shows.
	Gatherer prometheus.Gatherer
	// Ready answers /readyz: nil is 200, an error 503 with its text. Unset is always ready.
	Ready func() error
	// Live answers /livez likewise: an error says that only a restart helps.
	Live func() error
	// Pprof serves /debug/pprof.
	Pprof bool
	// Admit, if set, wraps the listener: it bounds the connections.
	Admit func(net.Listener) net.Listener
	// Serving, if set, is told the bound address once the listener is open.
	Serving func(net.Addr)
}

// Handler returns the listener's routes.
func (a Admin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", Handler(a.Gatherer))
	mux.HandleFunc("GET /livez", probe(a.Live))
	mux.HandleFunc("GET /readyz", probe(a.Ready))
	if a.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func probe(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if check != nil {
			if err := check(); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = fmt.Fprintln(w, err)
				return
			}
		}
		_, _ = fmt.Fprintln(w, "ok")
	}
}

// Run serves until ctx ends, then returns nil. It fails if it cannot bind.
func (a Admin) Run(ctx context.Context) error {
	listener, err := a.listen(ctx)
	if err != nil {
		return err
	}
	if a.Serving != nil {
		a.Serving(listener.Addr())
	}
	server := &http.Server{
		Handler:           a.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      a.writeTimeout(),
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	if a.Admit != nil {
		listener = a.Admit(listener)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve admin listener: %w", err)
	case <-ctx.Done():
	}
	return stop(server, done)
}

// writeTimeout bounds how long an answer may take to be made and read. Profiles take as
// long as they are asked for.
func (a Admin) writeTimeout() time.Duration {
	if a.Pprof {
		return 10 * time.Minute
	}
	return 2 * scrapeTimeout
}

func stop(server *http.Server, done <-chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), adminDrain)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		// A scrape that will not end must not hold up the process.
		_ = server.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve admin listener: %w", err)
	}
	return nil
}

func (a Admin) listen(ctx context.Context) (net.Listener, error) {
	if a.Listener != nil {
		return a.Listener, nil
	}
	addr := a.Addr
	if addr == "" {
		addr = DefaultAdminAddr
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("open admin listener: %w", err)
	}
	return listener, nil
}
