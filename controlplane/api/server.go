package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"golang.org/x/time/rate"

	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
	"tarn/controlplane/observe"
	"tarn/controlplane/policy"
	"tarn/controlplane/reconcile"
	raftv1 "tarn/proto/tarn/raft/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
	"tarn/raftfsm"
)

const (
	// maxRequest bounds what anybody may send; only reports may be longer.
	maxRequest = 4 << 20
	maxReport  = 64 << 20
	// compressFrom keeps small answers, which are most, from being compressed.
	compressFrom = 16 << 10
)

// State gives the replicated state.
type State interface {
	View() *raftfsm.View
}

// Log is the replicated log. Errors are those of consensus.Node.
type Log interface {
	// Propose stamps time and term and returns what the state machine answered.
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftfsm.Result, error)
	ReadIndex(ctx context.Context) (uint64, error)
}

// Cluster tells who takes part. *consensus.Node is one.
type Cluster interface {
	Leader() (id, addr string, term uint64)
	Servers() ([]consensus.Server, error)
	Stats() consensus.Stats
}

// Membership changes who takes part. *consensus.Node is one.
type Membership interface {
	AddServer(ctx context.Context, id, addr string) error
	RemoveServer(ctx context.Context, id string) error
	HandleJoin(ctx context.Context, req consensus.JoinRequest) (consensus.JoinAnswer, error)
}

// Authority is what this node can give to those who join.
type Authority struct {
	// CA signs, and its key goes to joining control nodes, so that they can sign
	// too; nil when this node has no key, then joining is refused here.
	CA *identity.CA
	// CAHash of the authority's certificate, for user tokens to pin. Empty: none are made here.
	CAHash string
	// Addresses are those of control nodes worth trying.
	Addresses func() []string
}

// Config is what the handlers work with. All fields are required but where noted.
type Config struct {
	NodeID     string
	ClusterID  string
	Version    string
	State      State
	Log        Log
	Cluster    Cluster
	Membership Membership
	// Soft and Leases are the leader's memory, empty on followers.
	Soft      *observe.State
	Leases    *observe.Leases
	Authority Authority
	// Gossip is this node's part in the gossip ring; nil for none.
	Gossip Gossip
	// Behind says which members keep the version of the log's commands down; nil for none.
	Behind func() []string
	// LeaseDuration is what RenewLease grants, counted from the request's sending.
	LeaseDuration time.Duration
	// Policy is the reconcile loop's, to say what a drain waits for.
	Policy reconcile.Policy
	// Policies say what people may do; nil is the built-in policy.
	Policies Policies
	// Limit bounds the requests of each identity.
	Limit RateLimit
	// Audit is this node's audit file; nil keeps nothing, which is for tests.
	Audit Auditor
	// Observe is called once per request; nil for none.
	Observe func(procedure, code string, took time.Duration)
	// Count is told of decisions: "placement" placed, refused or conflict; "report"
	// taken, stale, another_life or unknown_host; "lease" granted, revoked or refused. Nil for none.
	Count func(what, result string, n int)
	// Placed is told how long deciding on one placement took; nil for none.
	Placed func(took time.Duration)
	Logger *slog.Logger
	// Reflection serves the gRPC reflection service to operators.
	Reflection bool
}

func (c *Config) check() error {
	if c.NodeID == "" || c.ClusterID == "" {
		return errors.New("api needs the node's and the cluster's id")
	}
	if c.State == nil || c.Log == nil || c.Cluster == nil || c.Membership == nil || c.Soft == nil || c.Leases == nil || c.Logger == nil {
		return errors.New("api needs state, log, cluster, membership, soft state, leases and logger")
	}
	if c.LeaseDuration <= 0 {
		return errors.New("lease duration must be positive")
	}
	if err := c.Policy.Validate(); err != nil {
		return err
	}
	if c.Gossip == nil {
		c.Gossip = noGossip{}
	}
	if c.Audit == nil {
		c.Audit = noAuditor{}
	}
	if c.Policies == nil {
		p, err := policy.Default(Actions())
		if err != nil {
			return err
		}
		c.Policies = fixedPolicy{p}
	}
	if c.Observe == nil {
		c.Observe = func(string, string, time.Duration) {}
	}
	if c.Count == nil {
		c.Count = func(string, string, int) {}
	}
	if c.Behind == nil {
		c.Behind = func() []string { return nil }
	}
	if c.Placed == nil {
		c.Placed = func(time.Duration) {}
	}
	if c.Authority.Addresses == nil {
		c.Authority.Addresses = func() []string { return nil }
	}
	return nil
}

// New returns the handler of every service of tarn.v1. Serve it with TLS whose
// client certificates are verified if given: it refuses callers without one,
// before it reads their request, on every method but Join.
func New(cfg Config) (http.Handler, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("draw a secret: %w", err)
	}
	mount(mux, &core{Config: cfg, placer: newPlacer(cfg.State, cfg.Soft), lives: observe.NewLives(secret)})
	if cfg.Reflection {
		mountReflection(mux)
	}
	return &identify{next: mux, table: methods(), state: cfg.State, log: logging{logger: cfg.Logger, auditor: cfg.Audit}}, nil
}

func mount(mux *http.ServeMux, c *core) {
	chain := connect.WithInterceptors(
		logging{logger: c.Logger, auditor: c.Audit},
		measuring{observe: c.Observe},
		recovering{},
		limiting{limits: newLimits(c.Limit)},
		authorize{table: methods(), policies: c.Policies},
		validating{rules: newRules()},
		auditing{auditor: c.Audit, logger: c.Logger},
		keying{},
	)
	common := connect.WithHandlerOptions(chain, connect.WithReadMaxBytes(maxRequest), connect.WithCompressMinBytes(compressFrom))
	people := connect.WithHandlerOptions(common, strictly())
	mux.Handle(tarnv1connect.NewShareTypeServiceHandler(&shareTypes{c}, people))
	mux.Handle(tarnv1connect.NewShareServiceHandler(&shares{c}, people))
	mux.Handle(tarnv1connect.NewReplicaServiceHandler(&replicas{c}, people))
	mux.Handle(tarnv1connect.NewSnapshotServiceHandler(&snapshots{c}, people))
	mux.Handle(tarnv1connect.NewAccessRuleServiceHandler(&accessRules{c}, people))
	mux.Handle(tarnv1connect.NewQuotaServiceHandler(&quotas{c}, people))
	mux.Handle(tarnv1connect.NewMessageServiceHandler(&messages{c}, people))
	mux.Handle(tarnv1connect.NewHostServiceHandler(&hosts{c}, people))
	mux.Handle(tarnv1connect.NewOperatorServiceHandler(&operators{core: c}, common))
	mux.Handle(tarnv1connect.NewJoinServiceHandler(&joins{core: c, limit: rate.NewLimiter(5, 10)}, common))
	agents := connect.WithHandlerOptions(chain, connect.WithReadMaxBytes(maxReport), connect.WithCompressMinBytes(compressFrom))
	mux.Handle(tarnv1connect.NewAgentServiceHandler(&agentService{core: c}, agents))
}

func mountReflection(mux *http.ServeMux) {
	reflector := grpcreflect.NewStaticReflector(serviceNames()...)
	mux.Handle(grpcreflect.NewHandlerV1(reflector))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
}

func serviceNames() []string {
	return []string{
		tarnv1connect.ShareTypeServiceName, tarnv1connect.ShareServiceName, tarnv1connect.ReplicaServiceName,
		tarnv1connect.SnapshotServiceName, tarnv1connect.AccessRuleServiceName, tarnv1connect.QuotaServiceName,
		tarnv1connect.MessageServiceName, tarnv1connect.HostServiceName, tarnv1connect.OperatorServiceName,
		tarnv1connect.JoinServiceName, tarnv1connect.AgentServiceName,
	}
}

// identify is the outermost layer: it names the caller by its certificate and
// turns away, body unread, those who have none and do not come to join.
type identify struct {
	next  http.Handler
	table map[string]method
	state State
	log   logging
}

// ServeHTTP implements http.Handler.
func (i *identify) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who, err := i.callerOf(r)
	if ending(r, time.Now()) {
		// The next connection shows the certificate that the caller has by now.
		w.Header().Set("Connection", "close")
	}
	tellKeys(w, i.state.View())
	m, known := i.table[r.URL.Path]
	switch {
	case errors.Is(err, identity.ErrTooMany):
		refuseUnread(w, r, connect.NewError(connect.CodeResourceExhausted, err))
	case err != nil:
		i.refuse(w, r, caller{grant: nobody, remote: r.RemoteAddr}, connect.NewError(connect.CodeUnauthenticated, err))
	case who.grant == nobody && m.machines&nobody == 0:
		i.refuse(w, r, who, connect.NewError(connect.CodeUnauthenticated, errors.New("a client certificate of this cluster is required")))
	case !known && who.grant != operator:
		// Reflection, or a path that does not exist.
		i.refuse(w, r, who, connect.NewError(connect.CodePermissionDenied, denied("role %s may not call %s", who.role(), r.URL.Path)))
	default:
		limitReading(w, who, known)
		i.next.ServeHTTP(w, r.WithContext(withCaller(r.Context(), who)))
	}
}

// How long a request's body may take to arrive. Long polls are shorter than the first:
// over HTTP/1.1 the end of reading ends them too.
const (
	bodyTime         = 90 * time.Second
	strangerBodyTime = 5 * time.Second
)

// limitReading bounds how long a body may take, so that no sender of single bytes holds
// a connection. Reflection, which streams, is for operators.
func limitReading(w http.ResponseWriter, who caller, known bool) {
	limit := bodyTime
	if who.grant == nobody {
		limit = strangerBodyTime
	}
	if known {
		// Not every writer of tests can; those of net/http do.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(limit))
	}
}

func (i *identify) refuse(w http.ResponseWriter, r *http.Request, who caller, refusal *connect.Error) {
	i.log.deny(r.Context(), who, r.URL.Path, refusal)
	refuseUnread(w, r, refusal)
}

// ending says that a connection outlives, or soon will, the certificate that it was
// opened with: TLS looks at it once.
func ending(r *http.Request, now time.Time) bool {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	leaf := r.TLS.PeerCertificates[0]
	return now.After(leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 6))
}

// callerOf names who asks, by certificate or by user token. Whoever is revoked is an
// error, as is a token that is not good: saying less would only puzzle its owner.
func (i *identify) callerOf(r *http.Request) (caller, error) {
	who := caller{grant: nobody, remote: r.RemoteAddr}
	if r.TLS == nil {
		return who, nil
	}
	v, now := i.state.View(), time.Now()
	if len(r.TLS.PeerCertificates) == 0 {
		who, err := byToken(v, who, r.Header, now)
		if err == nil && who.grant != nobody {
			err = identity.Claim(r.Context(), who.identity.ID)
		}
		return who, err
	}
	id, err := identity.Peer(*r.TLS)
	if err != nil || now.After(r.TLS.PeerCertificates[0].NotAfter) {
		return who, nil
	}
	if v.Revoked(id.ID) {
		return who, errRevoked
	}
	if r.Header.Get(authorizationHeader) != "" {
		return who, errTwoIdentities
	}
	who.identity, who.grant = id, grantOf(id)
	return who, nil
}

func refuseUnread(w http.ResponseWriter, r *http.Request, refusal *connect.Error) {
	writer := connect.NewErrorWriter()
	if writer.IsSupported(r) {
		// The connection is all that could fail here, and then nobody listens.
		_ = writer.Write(w, r, refusal)
		return
	}
	status := http.StatusForbidden
	if refusal.Code() == connect.CodeUnauthenticated {
		status = http.StatusUnauthorized
	}
	http.Error(w, refusal.Message(), status)
}
