package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"tarn/proto/tarn/v1/tarnv1connect"
)

const (
	// ProjectHeader names the project that an operator works in.
	ProjectHeader = "Tarn-Project"
	// ReasonHeader says why, for the audit log.
	ReasonHeader = "Tarn-Reason"
	// KeyHeader names a request for all its attempts: a UUID, new for each request. What
	// is asked for again under its key is done once, and answered as the first time.
	KeyHeader = "Tarn-Idempotency-Key"
	// KeepsKeysHeader comes with every answer of a cluster that remembers keys, which it
	// does for 10 minutes.
	KeepsKeysHeader = "Tarn-Keeps-Keys"
	// RetryAfterHeader comes with an error that a later attempt need not meet: whole seconds.
	RetryAfterHeader = "Retry-After"

	defaultAttempt  = 10 * time.Second
	defaultPatience = 30 * time.Second
	// maxResponse bounds an answer: a full page of shares with much metadata.
	maxResponse = 64 << 20
)

// Config says whom to call, and as whom.
type Config struct {
	// Addresses are host:port of control-plane nodes, at least one. One that
	// answers is enough: the leader's address is learned.
	Addresses []string
	// TLS carries the caller's certificate and verifies the server; required.
	// It is cloned.
	TLS *tls.Config
	// DialTLS opens connections in place of one's own dialling and handshake with TLS: of
	// http.Transport.DialTLSContext, with HTTP/2 on the ALPN list. Nil: the client's own.
	DialTLS func(ctx context.Context, network, addr string) (net.Conn, error)
	// Project is sent by operators as the project to work in; others leave it empty.
	Project string
	// Token is a user token, sent with every call in place of a certificate; empty for none.
	Token string
	// Reason is sent with every call, for the audit log: at most 255 bytes of printable text.
	Reason string
	// Attempt bounds one try of one call, not counting a long poll's wait. Zero: 10 s.
	Attempt time.Duration
	// Patience bounds all tries of a call whose context has no deadline, again
	// without a long poll's wait. Zero: 30 s.
	Patience time.Duration
	// Logger receives one debug line per repeated attempt. Nil: none.
	Logger *slog.Logger
}

func (c *Config) check() error {
	if len(c.Addresses) == 0 {
		return errors.New("client needs at least one control-plane address")
	}
	for _, a := range c.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("control-plane address %q: %w", a, err)
		}
	}
	if c.TLS == nil {
		return errors.New("client needs a TLS configuration: there is no mode without")
	}
	if c.Attempt < 0 || c.Patience < 0 {
		return errors.New("client time limits must not be negative")
	}
	return nil
}

func (c *Config) defaults() {
	if c.Attempt == 0 {
		c.Attempt = defaultAttempt
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Client has one field per service of tarn.v1. Safe for concurrent use.
type Client struct {
	ShareTypes  tarnv1connect.ShareTypeServiceClient
	Shares      tarnv1connect.ShareServiceClient
	Replicas    tarnv1connect.ReplicaServiceClient
	Snapshots   tarnv1connect.SnapshotServiceClient
	AccessRules tarnv1connect.AccessRuleServiceClient
	Quotas      tarnv1connect.QuotaServiceClient
	Messages    tarnv1connect.MessageServiceClient
	Hosts       tarnv1connect.HostServiceClient
	Operator    tarnv1connect.OperatorServiceClient
	Agent       tarnv1connect.AgentServiceClient
	Join        tarnv1connect.JoinServiceClient

	transport *http.Transport
}

// New returns a client that has not yet called anybody. Close it after use.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.defaults()
	cfg.Addresses = slices.Clone(cfg.Addresses)
	transport := newTransport(cfg.TLS)
	transport.DialTLSContext = cfg.DialTLS
	follow := &follower{cfg: cfg, nodes: newNodes(cfg.Addresses), keeps: new(atomic.Bool)}
	return assemble(transport, follow), nil
}

func assemble(transport *http.Transport, follow *follower) *Client {
	caller := targeted{transport}
	// The host part is replaced per attempt by targeted.
	const base = "https://control-plane"
	opts := connect.WithClientOptions(
		connect.WithInterceptors(follow),
		connect.WithReadMaxBytes(maxResponse),
		// Nodes are near each other: compressing costs more than it saves.
		connect.WithAcceptCompression("gzip", nil, nil),
	)
	return &Client{
		ShareTypes:  tarnv1connect.NewShareTypeServiceClient(caller, base, opts),
		Shares:      tarnv1connect.NewShareServiceClient(caller, base, opts),
		Replicas:    tarnv1connect.NewReplicaServiceClient(caller, base, opts),
		Snapshots:   tarnv1connect.NewSnapshotServiceClient(caller, base, opts),
		AccessRules: tarnv1connect.NewAccessRuleServiceClient(caller, base, opts),
		Quotas:      tarnv1connect.NewQuotaServiceClient(caller, base, opts),
		Messages:    tarnv1connect.NewMessageServiceClient(caller, base, opts),
		Hosts:       tarnv1connect.NewHostServiceClient(caller, base, opts),
		Operator:    tarnv1connect.NewOperatorServiceClient(caller, base, opts),
		Agent:       tarnv1connect.NewAgentServiceClient(caller, base, opts),
		Join:        tarnv1connect.NewJoinServiceClient(caller, base, opts),
		transport:   transport,
	}
}

// Close closes idle connections. Calls under way go on.
func (c *Client) Close() { c.transport.CloseIdleConnections() }
