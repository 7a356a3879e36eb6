package stream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// ClientConfig of a Client. TLS is required.
type ClientConfig struct {
	// TLS gives the configuration for a connection to the agent of one host; it has
	// to refuse a server that is not that host.
	TLS func(hostID string) *tls.Config
	// StallTimeout ends a stream that brings no byte for so long. 0: DefaultStall.
	StallTimeout time.Duration
	// DialTimeout bounds connection and handshake. 0: 5 s.
	DialTimeout time.Duration
	// Refuse says why nothing is asked of a host, nil for any other; optional. Whom it
	// refuses later has to be cut off with Sever.
	Refuse func(hostID string) error
	// PlainNetworks are trusted: the bytes of a stream from a source in one of them
	// may come without TLS, if the source agrees (PlainConfig).
	PlainNetworks []netip.Prefix
}

const defaultDial = 5 * time.Second

// readBuffer is two TLS records; a larger one is never filled by one read.
const readBuffer = 32 << 10

// idleTimeout of connections is longer than most shares' cadence.
const idleTimeout = 10 * time.Minute

// answerTimeout is how long a source may take to plan, hold and start a stream.
const answerTimeout = 2 * time.Minute

// Client pulls from other agents. Streams and polls use separate connections,
// each reused. Safe for concurrent use.
type Client struct {
	cfg ClientConfig
	// buffers of streams that come over TLS.
	buffers *sync.Pool

	mu    sync.Mutex
	hosts map[string]*hostClients
}

type hostClients struct {
	bulk, poll *http.Client
	// noPlain: plain connections to this host failed a moment ago.
	noPlain atomic.Pointer[time.Time]

	mu      sync.Mutex
	running map[*context.CancelCauseFunc]struct{} // what ends each request under way
}

// NewClient checks cfg; it connects to nobody yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.TLS == nil {
		return nil, fmt.Errorf("stream client needs TLS: %w", zfs.ErrInvalid)
	}
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = DefaultStall
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = defaultDial
	}
	return &Client{cfg: cfg, buffers: newBuffers(), hosts: map[string]*hostClients{}}, nil
}

// Close drops idle connections. Running streams go on.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hosts {
		h.bulk.CloseIdleConnections()
		h.poll.CloseIdleConnections()
	}
}

func (c *Client) host(id string) *hostClients {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.hosts[id]
	if !ok {
		h = &hostClients{
			bulk: &http.Client{Transport: c.transport(id)}, poll: &http.Client{Transport: c.transport(id)},
			running: map[*context.CancelCauseFunc]struct{}{},
		}
		c.hosts[id] = h
	}
	return h
}

func (c *Client) transport(hostID string) *http.Transport {
	conf := c.cfg.TLS(hostID).Clone()
	conf.NextProtos = []string{"http/1.1"}
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: c.cfg.DialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    c.cfg.DialTimeout,
		ResponseHeaderTimeout:  answerTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		// A round of many shares uses the connections of the round before: a handshake
		// costs more than a small step. More streams than this wait for one to end.
		MaxConnsPerHost:     defaultStreams,
		MaxIdleConnsPerHost: defaultStreams,
		IdleConnTimeout:     idleTimeout,
		ReadBufferSize:      readBuffer,
		DisableCompression:  true,
		Protocols:           http1,
	}
}

// Request asks a source for the next step.
type Request struct {
	Source *tarnv1.Source
	// Share and Replica are the receiver's own; with Want the source's share.
	Share   string
	Replica string
	Epoch   uint64
	// Have is what the receiver holds, newest first; beyond 4096 the oldest are left out.
	Have []zfs.GUID
	// Token continues a cut receive; Have is then only an acknowledgement.
	Token string
	// Want asks for a full stream of exactly this snapshot.
	Want zfs.GUID
	// RateLimit in bytes per second, 0 unlimited.
	RateLimit int64
	// Flags of the streams that the replica received so far (zfs.StreamFlags), empty
	// when that is not known; Can are those that the receiver's engine takes.
	Flags string
	Can   zfs.StreamFlags
}

func (r Request) body() pullBody {
	have := r.Have
	if len(have) > maxHave {
		have = have[:maxHave]
	}
	return pullBody{
		Share: r.Share, Source: r.Source.GetReplicaId(), Replica: r.Replica, Epoch: r.Epoch,
		Have: have, Token: r.Token, Want: r.Want, Flags: r.Flags, Can: r.Can.String(),
	}
}

// Pull asks for the next step. The Pull answered must be closed, unless its Step
// is UpToDate. Errors carry the class of the source's failure; ErrUnreachable
// when it could not be asked. Cancelling ctx ends the stream.
func (c *Client) Pull(ctx context.Context, req Request) (*Pull, error) {
	h, body := c.host(req.Source.GetHostId()), req.body()
	body.Plain = c.offersPlain(h)
	p, err := c.pull(ctx, h, req, body)
	if errors.Is(err, errNoPlain) {
		h.noPlain.Store(new(time.Now()))
		body.Plain = false
		p, err = c.pull(ctx, h, req, body)
	}
	return p, err
}

func (c *Client) pull(ctx context.Context, h *hostClients, req Request, body pullBody) (*Pull, error) {
	ctx, cancel := h.begin(ctx)
	resp, err := c.post(ctx, h.bulk, req.Source, pathPull, body)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	late := time.AfterFunc(c.cfg.StallTimeout, func() { cancel(ErrStalled) }) // an answer that does not end
	step, err := stepOf(resp)
	if err != nil || step.UpToDate() {
		drop(resp.Body)
		late.Stop()
		cancel(nil)
		return &Pull{Step: step}, err
	}
	late.Stop()
	p := newPull(ctx, cancel, step, resp, c.cfg.StallTimeout, req.RateLimit, c.buffers)
	if offer := resp.Header.Get(headerPlain); offer != "" {
		if err := c.openPlain(ctx, p, offer); err != nil {
			p.Close()
			return nil, err
		}
		p.nothing = func() { h.noPlain.Store(new(time.Now())) }
	}
	return p, nil
}

func (c *Client) post(ctx context.Context, via *http.Client, src *tarnv1.Source, path string, body any) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+src.GetAddress()+path, bytes.NewReader(encode(body)))
	if err != nil {
		return nil, fmt.Errorf("address source %q: %v: %w", src.GetAddress(), err, zfs.ErrInvalid)
	}
	r.Header.Set("Content-Type", "application/json")
	if err := c.refuse(src.GetHostId()); err != nil {
		return nil, err
	}
	resp, err := via.Do(r)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, fmt.Errorf("ask source: %w", cause)
		}
		return nil, fmt.Errorf("ask source: %v: %w", err, ErrUnreachable)
	}
	return resp, nil
}

func stepOf(resp *http.Response) (Step, error) {
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return decodeStep(resp.Header.Get(headerStep))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxHeaderBytes))
	if err != nil {
		return Step{}, fmt.Errorf("read error of source: %v: %w", err, ErrUnreachable)
	}
	return Step{}, decodeError(data)
}

// drop empties a short body, so that its connection can be used again.
func drop(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, maxHeaderBytes)
	_ = body.Close()
}

// poll asks for the heads of one host.
func (c *Client) poll(ctx context.Context, src *tarnv1.Source, req headsBody) (headsAnswer, error) {
	ctx, stop := context.WithTimeout(ctx, req.wait()+pollGrace)
	defer stop()
	h := c.host(src.GetHostId())
	ctx, cancel := h.begin(ctx)
	defer cancel(nil)
	resp, err := c.post(ctx, h.poll, src, pathHeads, req)
	if err != nil {
		return headsAnswer{}, err
	}
	defer drop(resp.Body)
	if resp.StatusCode != http.StatusOK {
		_, err := stepOf(resp)
		if err == nil {
			err = errors.New("answer without content")
		}
		return headsAnswer{}, err
	}
	return decodeHeadsAnswer(resp.Body)
}
