package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	dialTimeout      = 2 * time.Second
	handshakeTimeout = 3 * time.Second
	// A node that vanished without a reset is noticed after the sum of the two.
	pingAfter   = 3 * time.Second
	pingTimeout = 2 * time.Second
)

// newTransport speaks HTTP/2 over TLS and pings silent connections, so that a
// long poll does not hang on a node that lost its power.
func newTransport(conf *tls.Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:     conf.Clone(),
		TLSHandshakeTimeout: handshakeTimeout,
		Protocols:           protocols,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
}

// targetKey carries the address of the attempt under way from the interceptor to
// the transport, the only two places that know of it.
type targetKey struct{}

func withTarget(ctx context.Context, address string) context.Context {
	return context.WithValue(ctx, targetKey{}, address)
}

// targeted sends each request to the address in its context.
type targeted struct{ transport *http.Transport }

// Do implements connect.HTTPClient.
func (t targeted) Do(req *http.Request) (*http.Response, error) {
	if address, ok := req.Context().Value(targetKey{}).(string); ok {
		req.URL.Host, req.Host = address, address
	}
	res, err := t.transport.RoundTrip(req)
	if err != nil || res.StatusCode == http.StatusOK {
		return res, err
	}
	// A refusal is its body: one of which a dying server sent the status alone would be
	// taken for another one ("not found" for "unimplemented"), which nobody repeats.
	body, err := io.ReadAll(io.LimitReader(res.Body, maxRefusal))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return nil, fmt.Errorf("answer of %s was cut off: %w", req.Host, err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

// maxRefusal bounds what is kept of an answer that is an error.
const maxRefusal = 1 << 20
