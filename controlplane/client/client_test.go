package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

// cluster is a set of fake nodes behind real TLS.
type cluster struct {
	t  *testing.T
	ca *identity.CA
}

func newCluster(t *testing.T) *cluster {
	ca, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, ca: ca}
}

func (c *cluster) material(role identity.Role) *identity.Material {
	c.t.Helper()
	cert, key, err := c.ca.IssueKey(identity.Subject{Role: role, ID: uuid.NewString()})
	if err != nil {
		c.t.Fatal(err)
	}
	dir := c.t.TempDir()
	if err := identity.SaveNode(dir, c.ca.CertPEM(), cert, key); err != nil {
		c.t.Fatal(err)
	}
	m, err := identity.LoadMaterial(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// node is one fake control-plane node: answer decides each call.
type node struct {
	tarnv1connect.UnimplementedShareServiceHandler
	tarnv1connect.UnimplementedAgentServiceHandler
	addr   string
	mu     sync.Mutex
	ids    []string
	answer func(call int) error
	server *httptest.Server
}

func (n *node) CreateShare(ctx context.Context, req *tarnv1.CreateShareRequest) (*tarnv1.Share, error) {
	n.mu.Lock()
	n.ids = append(n.ids, req.GetId())
	call := len(n.ids)
	n.mu.Unlock()
	info, _ := connect.CallInfoForHandlerContext(ctx)
	if err := n.answer(call); err != nil {
		return nil, err
	}
	return &tarnv1.Share{Id: req.GetId(), ProjectId: info.RequestHeader().Get(client.ProjectHeader)}, nil
}

func (n *node) Assignments(context.Context, *tarnv1.AssignmentsRequest) (*tarnv1.AssignmentsResponse, error) {
	if err := n.answer(1); err != nil {
		return nil, err
	}
	return &tarnv1.AssignmentsResponse{Revision: 7}, nil
}

func (n *node) count(id string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ids = append(n.ids, id)
	return len(n.ids)
}

func (n *node) UpdateShare(_ context.Context, req *tarnv1.UpdateShareRequest) (*tarnv1.Share, error) {
	return &tarnv1.Share{Id: req.GetId()}, n.answer(n.count(req.GetId()))
}

func (n *node) DeleteShare(_ context.Context, req *tarnv1.DeleteShareRequest) (*tarnv1.Empty, error) {
	return &tarnv1.Empty{}, n.answer(n.count(req.GetId()))
}

func (n *node) seen() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.ids...)
}

func (c *cluster) node(answer func(call int) error) *node {
	n := &node{answer: answer}
	mux := http.NewServeMux()
	mux.Handle(tarnv1connect.NewShareServiceHandler(n))
	mux.Handle(tarnv1connect.NewAgentServiceHandler(n))
	n.server = httptest.NewUnstartedServer(mux)
	n.server.EnableHTTP2 = true
	n.server.TLS = c.material(identity.RoleControl).ServerConfig("h2")
	n.server.StartTLS()
	c.t.Cleanup(n.server.Close)
	n.addr = strings.TrimPrefix(n.server.URL, "https://")
	return n
}

func (c *cluster) client(conf client.Config) *client.Client {
	c.t.Helper()
	if conf.TLS == nil {
		conf.TLS = c.material(identity.RoleOperator).ClientConfig(identity.RoleControl)
	}
	cl, err := client.New(conf)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

func notLeader(addr string) error {
	err := connect.NewError(connect.CodeFailedPrecondition, errors.New("not the leader"))
	detail, detailErr := connect.NewErrorDetail(&tarnv1.NotLeader{LeaderAddress: addr})
	if detailErr != nil {
		return detailErr
	}
	err.AddDetail(detail)
	return err
}

func ok(int) error { return nil }

func TestFollowsTheLeaderAndRemembersIt(t *testing.T) {
	c := newCluster(t)
	leader := c.node(ok)
	follower := c.node(func(int) error { return notLeader(leader.addr) })
	cl := c.client(client.Config{Addresses: []string{follower.addr}, Project: "blue"})
	for range 3 {
		share, err := cl.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if share.GetProjectId() != "blue" {
			t.Fatalf("project header %q, want blue", share.GetProjectId())
		}
	}
	if n := len(follower.seen()); n != 1 {
		t.Errorf("follower was asked %d times, want once", n)
	}
	if n := len(leader.seen()); n != 3 {
		t.Errorf("leader was asked %d times, want 3", n)
	}
}

func TestRepeatsUnknownOutcomesWithTheSameID(t *testing.T) {
	c := newCluster(t)
	n := c.node(func(call int) error {
		if call < 3 {
			return connect.NewError(connect.CodeUnavailable, errors.New("outcome unknown"))
		}
		return nil
	})
	share, err := c.client(client.Config{Addresses: []string{n.addr}}).
		Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ids := n.seen()
	if len(ids) != 3 || ids[0] == "" || ids[0] != ids[1] || ids[1] != ids[2] || ids[2] != share.GetId() {
		t.Errorf("ids %q, want three times the minted one", ids)
	}
}

// What was perhaps done already is not asked for again where the second answer would
// be another one than the first.
func TestUnknownOutcomesOfWhatCannotBeDoneTwice(t *testing.T) {
	unknown := connect.NewError(connect.CodeUnavailable, errors.New("outcome unknown"))
	gone := connect.NewError(connect.CodeNotFound, errors.New("no such share"))
	c := newCluster(t)
	n := c.node(func(call int) error { return []error{unknown, gone}[min(call-1, 1)] })
	shares := c.client(client.Config{Addresses: []string{n.addr}}).Shares
	if _, err := shares.DeleteShare(t.Context(), &tarnv1.DeleteShareRequest{Id: "x"}); err != nil || len(n.seen()) != 2 {
		t.Errorf("a share that was deleted at the first attempt: %v after %d", err, len(n.seen()))
	}
	if _, err := shares.DeleteShare(t.Context(), &tarnv1.DeleteShareRequest{Id: "x"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("a share that there never was: %v", err)
	}

	n = c.node(func(int) error { return unknown })
	shares = c.client(client.Config{Addresses: []string{n.addr}, Patience: time.Second}).Shares
	_, err := shares.UpdateShare(t.Context(), &tarnv1.UpdateShareRequest{Id: "x", Revision: 7})
	if connect.CodeOf(err) != connect.CodeUnavailable || len(n.seen()) != 1 {
		t.Errorf("a change of revision 7: %v after %d", err, len(n.seen()))
	}

	dead := c.node(ok)
	dead.server.Close()
	alive := c.node(ok)
	shares = c.client(client.Config{Addresses: []string{dead.addr, alive.addr}}).Shares
	if _, err := shares.UpdateShare(t.Context(), &tarnv1.UpdateShareRequest{Id: "x", Revision: 7}); err != nil {
		t.Errorf("a change that had reached nobody: %v", err)
	}
}

// A server that is killed while it refuses has said nothing: the next one is asked.
func TestRefusalThatIsCutOffIsNone(t *testing.T) {
	c := newCluster(t)
	n := c.node(ok)
	whole, cuts := n.server.Config.Handler, 0
	n.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cuts++; cuts > 2 {
			whole.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(http.StatusNotFound)
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		panic(http.ErrAbortHandler)
	})
	if _, err := c.client(client.Config{Addresses: []string{n.addr}}).Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{}); err != nil {
		t.Errorf("%v after %d answers that were cut off", err, cuts-1)
	}
}

func TestMovesOnFromADeadNode(t *testing.T) {
	c := newCluster(t)
	dead, alive := c.node(ok), c.node(ok)
	dead.server.Close()
	cl := c.client(client.Config{Addresses: []string{dead.addr, alive.addr}})
	if _, err := cl.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Agent.Assignments(t.Context(), &tarnv1.AssignmentsRequest{MaxWait: durationpb.New(time.Second)}); err != nil {
		t.Fatal(err)
	}
}

func TestMovesOnFromASilentNode(t *testing.T) {
	c := newCluster(t)
	release := make(chan struct{})
	silent := c.node(func(int) error { <-release; return nil })
	alive := c.node(ok)
	cl := c.client(client.Config{Addresses: []string{silent.addr, alive.addr}, Attempt: 2 * time.Second})
	_, err := cl.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{})
	close(release)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := silent.seen(), alive.seen(); len(a) == 0 || len(b) != 1 || a[0] != b[0] {
		t.Errorf("silent node saw %q, the other %q: want the same id", a, b)
	}
}

func TestGivesUpWithTheReason(t *testing.T) {
	c := newCluster(t)
	n := c.node(func(int) error { return connect.NewError(connect.CodeUnavailable, errors.New("no leader yet")) })
	cl := c.client(client.Config{Addresses: []string{n.addr}, Patience: 2 * time.Second})
	_, err := cl.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{})
	if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "no leader yet") {
		t.Errorf("got %v, want the last answer", err)
	}
}

func TestReturnsRefusalsAtOnce(t *testing.T) {
	c := newCluster(t)
	n := c.node(func(int) error {
		err := connect.NewError(connect.CodeInvalidArgument, errors.New("bad"))
		for _, v := range []*tarnv1.FieldViolation{{Field: "name", Rule: "long"}, {Field: "size_gib", Rule: "negative"}} {
			if d, detailErr := connect.NewErrorDetail(v); detailErr == nil {
				err.AddDetail(d)
			}
		}
		return err
	})
	_, err := c.client(client.Config{Addresses: []string{n.addr}}).
		Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{})
	if got := client.Violations(err); len(got) != 2 || got[1].GetField() != "size_gib" {
		t.Errorf("violations %v", got)
	}
	if len(n.seen()) != 1 {
		t.Errorf("a refusal was repeated: %d calls", len(n.seen()))
	}
}

func TestRefusesAForeignServer(t *testing.T) {
	c := newCluster(t)
	n := c.node(ok)
	foreign := newCluster(t)
	conf := foreign.material(identity.RoleOperator).ClientConfig(identity.RoleControl)
	cl := c.client(client.Config{Addresses: []string{n.addr}, TLS: conf, Patience: 200 * time.Millisecond})
	if _, err := cl.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{}); err == nil {
		t.Fatal("a server of a foreign authority was trusted")
	}
	if len(n.seen()) != 0 {
		t.Error("the request reached it")
	}
}

func TestConfig(t *testing.T) {
	for name, conf := range map[string]client.Config{
		"no address":  {TLS: &tls.Config{}},
		"bad address": {Addresses: []string{"nowhere"}, TLS: &tls.Config{}},
		"no TLS":      {Addresses: []string{"127.0.0.1:1"}},
		"negative":    {Addresses: []string{"127.0.0.1:1"}, TLS: &tls.Config{}, Attempt: -1},
	} {
		if _, err := client.New(conf); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A cluster that has said that it keeps keys is asked again under the same one, also for
// a change that names its revision; what it refuses then is what it did.
func TestRepeatsUnderItsKey(t *testing.T) {
	unknown := connect.NewError(connect.CodeUnavailable, errors.New("outcome unknown"))
	gone := connect.NewError(connect.CodeNotFound, errors.New("no such share"))
	c := newCluster(t)
	n := c.node(func(call int) error { return []error{unknown, nil, unknown, gone}[(call-1)%4] })
	var mu sync.Mutex
	var keys []string
	whole := n.server.Config.Handler
	n.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		keys = append(keys, r.Header.Get(client.KeyHeader))
		mu.Unlock()
		w.Header().Set(client.KeepsKeysHeader, "yes")
		whole.ServeHTTP(w, r)
	})
	shares := c.client(client.Config{Addresses: []string{n.addr}}).Shares
	if _, err := shares.UpdateShare(t.Context(), &tarnv1.UpdateShareRequest{Id: "x", Revision: 7}); err != nil {
		t.Errorf("a change of revision 7: %v", err)
	}
	if _, err := shares.DeleteShare(t.Context(), &tarnv1.DeleteShareRequest{Id: "x"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("a share that there never was: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(keys) != 4 || keys[0] != keys[1] || keys[2] != keys[3] || keys[0] == keys[2] || uuid.Validate(keys[0]) != nil {
		t.Errorf("keys %q", keys)
	}
}
