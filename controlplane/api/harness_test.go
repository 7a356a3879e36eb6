package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/api"
	"tarn/controlplane/audit"
	"tarn/controlplane/client"
	"tarn/controlplane/consensus"
	"tarn/controlplane/identity"
	"tarn/controlplane/observe"
	"tarn/controlplane/policy"
	"tarn/controlplane/reconcile"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// direct is a log of one node without a network: what is proposed is applied.
type direct struct {
	mu       sync.Mutex
	fsm      *raftfsm.FSM
	index    uint64
	notFirst bool  // answer as a follower would
	fail     error // answer of the next proposals
}

const leaderAddr = "192.0.2.1:7400"

func (d *direct) Propose(_ context.Context, cmd *raftv1.Command) (*raftfsm.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.refusal(); err != nil {
		return nil, err
	}
	cmd.ProposedAt, cmd.Audit = timestamppb.Now(), audit.Note(cmd)
	data, err := proto.Marshal(cmd)
	if err != nil {
		return nil, err
	}
	d.index++
	res := d.fsm.Apply(&raft.Log{Index: d.index, Term: 1, Type: raft.LogCommand, Data: data}).(*raftfsm.Result)
	return res, d.fail
}

func (d *direct) refusal() error {
	if d.notFirst {
		return &consensus.NotLeaderError{LeaderID: "other", LeaderAddr: leaderAddr, Term: 3}
	}
	return nil
}

func (d *direct) ReadIndex(context.Context) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.index, d.refusal()
}

func (d *direct) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *direct) proposals() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.index
}

// members is a cluster of one.
type members struct{ id string }

func (m members) Leader() (string, string, uint64) { return m.id, leaderAddr, 1 }
func (m members) Servers() ([]consensus.Server, error) {
	return []consensus.Server{{ID: m.id, Addr: leaderAddr, Voter: true}}, nil
}
func (m members) Stats() consensus.Stats                          { return consensus.Stats{LeaderID: m.id} }
func (m members) AddServer(context.Context, string, string) error { return nil }
func (m members) RemoveServer(context.Context, string) error      { return nil }
func (m members) HandleJoin(context.Context, consensus.JoinRequest) (consensus.JoinAnswer, error) {
	return consensus.JoinAnswer{Status: consensus.JoinDone}, nil
}

// ringOfTests has a key and nobody in it.
type ringOfTests struct{}

const ringKey = "01234567890123456789012345678901"

func (ringOfTests) KeyFile() (first, file []byte)                   { return []byte(ringKey), []byte("# a file\n") }
func (ringOfTests) Orders(*tarnv1.GossipState) *tarnv1.GossipOrders { return &tarnv1.GossipOrders{} }
func (ringOfTests) Rotate(context.Context, string) error            { return nil }
func (ringOfTests) Keys() *tarnv1.GossipKeys                        { return &tarnv1.GossipKeys{Number: 4} }
func (ringOfTests) Exchange(*tarnv1.ExchangeGossipRequest) (*tarnv1.ExchangeGossipResponse, error) {
	return &tarnv1.ExchangeGossipResponse{}, nil
}

// server is the API behind real TLS.
type server struct {
	t      testing.TB
	ca     *identity.CA
	log    *direct
	fsm    *raftfsm.FSM
	soft   *observe.State
	leases *observe.Leases
	addr   string

	auditor  *memoryAuditor
	policies *switched
	// afterwards is called when a request was dealt with, before its answer goes out;
	// false loses the answer. Nil for none.
	afterwards atomic.Pointer[func(procedure string) bool]
}

// losing serves requests in full, and loses the answers that a test wants to be lost.
func (s *server) losing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := s.afterwards.Load()
		if f == nil {
			next.ServeHTTP(w, r)
			return
		}
		kept := httptest.NewRecorder()
		next.ServeHTTP(kept, r)
		if !(*f)(r.URL.Path) {
			panic(http.ErrAbortHandler)
		}
		maps.Copy(w.Header(), kept.Header())
		w.WriteHeader(kept.Code)
		if _, err := w.Write(kept.Body.Bytes()); err != nil {
			s.t.Logf("answer of %s: %v", r.URL.Path, err)
		}
	})
}

// switched is a policy that a test changes.
type switched struct{ now atomic.Pointer[policy.Policy] }

func (s *switched) Policy() *policy.Policy { return s.now.Load() }

// follow puts a policy.yaml in place.
func (s *server) follow(text string) {
	s.t.Helper()
	p, err := policy.Parse([]byte(text), api.Actions())
	if err != nil {
		s.t.Fatal(err)
	}
	s.policies.now.Store(p)
}

func newServer(t testing.TB) *server {
	t.Helper()
	return newServerAt(t, raftfsm.CommandVersion)
}

// newServerAt serves a cluster of a command version.
func newServerAt(t testing.TB, version uint32) *server {
	t.Helper()
	ca, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	soft, err := observe.New(observe.Config{})
	if err != nil {
		t.Fatal(err)
	}
	fsm := raftfsm.New(raftfsm.Config{OnHalt: func(err error) { t.Errorf("state machine halted: %v", err) }})
	s := &server{t: t, ca: ca, fsm: fsm, log: &direct{fsm: fsm}, soft: soft, leases: observe.NewLeases(), auditor: &memoryAuditor{}, policies: &switched{}}
	s.follow("")
	_, err = s.log.Propose(context.Background(), &raftv1.Command{Verb: &raftv1.Command_SetCommandVersion{
		SetCommandVersion: &raftv1.SetCommandVersion{Version: version},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if version >= raftfsm.LeaseVersion {
		s.waitForLeases(reconcile.DefaultPolicy().LeaseWait)
	}
	soft.Lead(time.Now())
	s.leases.Lead(time.Now())
	nodeID := uuid.NewString()
	handler, err := api.New(api.Config{
		NodeID: nodeID, ClusterID: "test", State: fsm, Log: s.log, Cluster: members{nodeID}, Membership: members{nodeID},
		Soft: soft, Leases: s.leases, LeaseDuration: 3 * time.Second, Policy: reconcile.DefaultPolicy(), Logger: slog.New(slog.DiscardHandler),
		Authority:  api.Authority{CA: ca, CAHash: ca.Hash()},
		Gossip:     ringOfTests{},
		Reflection: true, Audit: s.auditor, Policies: s.policies,
	})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(s.losing(handler))
	web.EnableHTTP2 = true
	web.TLS = s.material(identity.Subject{Role: identity.RoleControl}).JoinServerConfig("h2", "http/1.1")
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	web.StartTLS()
	t.Cleanup(web.Close)
	s.addr = strings.TrimPrefix(web.URL, "https://")
	return s
}

// waitForLeases has the log say how long to wait for them.
func (s *server) waitForLeases(wait time.Duration) {
	s.t.Helper()
	res, err := s.log.Propose(context.Background(), &raftv1.Command{Verb: &raftv1.Command_SetLeaseWait{
		SetLeaseWait: &raftv1.SetLeaseWait{Wait: durationpb.New(wait)},
	}})
	if err != nil || res.Err != nil {
		s.t.Fatal(res, err)
	}
}

func (s *server) material(subject identity.Subject) *identity.Material {
	s.t.Helper()
	if subject.ID == "" {
		subject.ID = uuid.NewString()
	}
	cert, key, err := s.ca.IssueKey(subject)
	if err != nil {
		s.t.Fatal(err)
	}
	dir := s.t.TempDir()
	if err := identity.SaveNode(dir, s.ca.CertPEM(), cert, key); err != nil {
		s.t.Fatal(err)
	}
	m, err := identity.LoadMaterial(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func (s *server) tls(subject identity.Subject) *tls.Config {
	return s.material(subject).ClientConfig(identity.RoleControl)
}

func (s *server) client(conf *tls.Config) *client.Client {
	s.t.Helper()
	cl, err := client.New(client.Config{Addresses: []string{s.addr}, TLS: conf, Patience: 2 * time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cl.Close)
	return cl
}

func operatorSubject() identity.Subject { return identity.Subject{Role: identity.RoleOperator} }

func memberSubject(project string) identity.Subject {
	return identity.Subject{Role: identity.RoleClient, Project: project, ProjectRole: identity.ProjectMember}
}

func (s *server) operator() *client.Client { return s.client(s.tls(operatorSubject())) }
func (s *server) member(project string) *client.Client {
	return s.client(s.tls(memberSubject(project)))
}

// raw posts bytes to a procedure and returns the code and the violated fields.
type raw struct {
	code       string
	message    string
	violations []*tarnv1.FieldViolation
	header     http.Header
}

func (r raw) violates(field string) bool {
	return slices.ContainsFunc(r.violations, func(v *tarnv1.FieldViolation) bool {
		f := v.GetField()
		return v.GetRule() != "" && (f == field || strings.HasPrefix(f, field+".") || strings.HasPrefix(f, field+"["))
	})
}

func post(t testing.TB, c *http.Client, addr, procedure string, msg proto.Message) raw {
	t.Helper()
	return postKeyed(t, c, addr, procedure, "", msg)
}

// postKeyed posts under an idempotency key.
func postKeyed(t testing.TB, c *http.Client, addr, procedure, key string, msg proto.Message) raw {
	t.Helper()
	body, err := proto.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+addr+procedure, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/proto")
	if key != "" {
		req.Header.Set(client.KeyHeader, key)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := raw{code: "ok", header: res.Header}
	if res.StatusCode == http.StatusOK {
		return out
	}
	var failure struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Details []struct {
			Type  string `json:"type"`
			Value string `json:"value"`
		} `json:"details"`
	}
	if err := json.Unmarshal(text, &failure); err != nil {
		t.Fatalf("%s: %s: %v", procedure, text, err)
	}
	out.code, out.message = failure.Code, failure.Message
	for _, d := range failure.Details {
		if d.Type != "tarn.v1.FieldViolation" {
			continue
		}
		data, err := base64.RawStdEncoding.DecodeString(d.Value)
		v := &tarnv1.FieldViolation{}
		if err != nil || proto.Unmarshal(data, v) != nil {
			t.Fatalf("%s: detail cannot be read", procedure)
		}
		out.violations = append(out.violations, v)
	}
	return out
}

func httpClient(t testing.TB, conf *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// host registers a storage host with one pool and returns its id.
func (s *server) host(name, zone string) string {
	s.t.Helper()
	id := uuid.NewString()
	agent := s.client(s.tls(identity.Subject{Role: identity.RoleAgent, ID: id}))
	if _, err := agent.Agent.Register(context.Background(), &tarnv1.RegisterRequest{Host: hostRecord(id, name, zone)}); err != nil {
		s.t.Fatal(err)
	}
	return id
}

func hostRecord(id, name, zone string) *tarnv1.Host {
	return &tarnv1.Host{
		Id: id, Name: name, AvailabilityZone: zone, Address: "127.0.0.1:7500", Backend: "dir", SessionId: "first",
		FenceClass: tarnv1.FenceClass_FENCE_CLASS_HELPER,
		Pools: []*tarnv1.Pool{{
			Name: "tank", ReplicationDomain: "test", TotalCapacityGib: 100_000, FreeCapacityGib: 100_000,
			ReplicationTypes: []tarnv1.ReplicationType{tarnv1.ReplicationType_REPLICATION_TYPE_READABLE},
			StorageProtocol:  "NFS", Health: "ONLINE", MaxOverSubscriptionRatio: 1,
			Capabilities: map[string]string{"snapshot_support": "true"},
		}},
	}
}

func (s *server) shareType(op *client.Client, name string) *tarnv1.ShareType {
	s.t.Helper()
	kind, err := op.ShareTypes.CreateShareType(context.Background(), &tarnv1.CreateShareTypeRequest{
		Name: name,
		ExtraSpecs: map[string]string{
			"driver_handles_share_servers": "false", "replication_type": "readable", "snapshot_support": "true",
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return kind
}

// available makes a share's replicas available, as the leader's loop would.
func (s *server) available(shareID string) {
	s.t.Helper()
	batch := &raftv1.Transitions{}
	for _, r := range s.fsm.View().ReplicasOfShare(shareID) {
		batch.Replicas = append(batch.Replicas, &raftv1.ReplicaTransition{Id: r.GetId(), Status: tarnv1.Status_STATUS_AVAILABLE})
	}
	if _, err := s.log.Propose(context.Background(), &raftv1.Command{Verb: &raftv1.Command_Transitions{Transitions: batch}}); err != nil {
		s.t.Fatal(err)
	}
}

// share creates one that is available.
func (s *server) share(cl *client.Client, kind *tarnv1.ShareType, name string) *tarnv1.Share {
	s.t.Helper()
	share, err := cl.Shares.CreateShare(context.Background(), &tarnv1.CreateShareRequest{Name: name, SizeGib: 2, ShareType: kind.GetId()})
	if err != nil {
		s.t.Fatal(err)
	}
	s.available(share.GetId())
	return share
}

func wantCode(t testing.TB, err error, want connect.Code) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != want {
		t.Errorf("got %v, want %v", err, want)
	}
}
