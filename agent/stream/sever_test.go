package stream

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
)

var errTest = errors.New("revoked")

// TestSevered: who pulls from a host that is refused from now on ends what is under way,
// asks nothing more, and says why; whatever the connections are good for.
func TestSevered(t *testing.T) {
	var refused atomic.Bool
	var asked atomic.Int64
	begun := make(chan struct{}, 2)
	r := newRig(t, 0, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			asked.Add(1)
			if asked.Load() == 1 {
				next.ServeHTTP(w, req)
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if req.URL.Path == pathPull {
				w.Header().Set(headerStep, string(encode(Step{Kind: KindFull, To: 7, ToName: "tarn.7"})))
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
			}
			begun <- struct{}{}
			<-req.Context().Done() // a stream, or a poll, that would go on for ever
		})
	})
	conf := r.client.cfg.TLS
	client, err := NewClient(ClientConfig{TLS: func(id string) *tls.Config { return conf(id) }, Refuse: func(id string) error {
		if id == "h" && refused.Load() {
			return errTest
		}
		return nil
	}})
	fatal(t, err)
	t.Cleanup(client.Close)
	r.snapshot(t, "tarn.1", "one")
	p, err := client.Pull(t.Context(), r.request())
	fatal(t, err)
	_, err = io.ReadAll(p)
	fatal(t, err)
	fatal(t, p.Finish()) // its connection is good for another

	p, err = client.Pull(t.Context(), r.request())
	fatal(t, err)
	defer p.Close()
	polled := make(chan error, 1)
	go func() {
		_, err := client.poll(t.Context(), r.src, headsBody{MaxWait: 30_000})
		polled <- err
	}()
	<-begun
	<-begun
	client.Sever("another host")
	refused.Store(true)
	client.Sever("h")
	_, err = io.ReadAll(p)
	for what, err := range map[string]error{"stream": err, "poll": <-polled} {
		if !errors.Is(err, errTest) || !errors.Is(err, ErrDenied) {
			t.Errorf("%s ended with %v", what, err)
		}
	}
	before := asked.Load()
	_, err = client.Pull(t.Context(), r.request())
	_, perr := client.poll(t.Context(), r.src, headsBody{})
	if !errors.Is(err, errTest) || !errors.Is(perr, errTest) || asked.Load() != before {
		t.Errorf("after that: %v, %v, asked %d times", err, perr, asked.Load()-before)
	}
}
