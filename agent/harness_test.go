package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/identity"
	"tarn/controlplane/observe"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs/zfstest"
)

// Clocks of the tests: as short as a busy machine puts up with.
const (
	leaseDuration = 3 * time.Second
	leaseRenew    = 300 * time.Millisecond
	leaseMargin   = time.Second
)

// plane is a control plane in memory: it hands out what a test assigns and
// remembers what it is told.
type plane struct {
	mu          sync.Mutex
	changed     chan struct{}
	hosts       map[string]*tarnv1.Host
	registered  int
	revision    uint64
	assignments map[string][]*tarnv1.Assignment // by host
	reports     []*tarnv1.ReportRequest
	latest      map[string]*tarnv1.ReplicaReport // by replica
	noLeases    bool
	lease       time.Duration // leaseDuration if 0
	granted     int           // renewals answered
	wantFull    bool
	forgotten   bool // answers that it knows no host
	inquiry     *tarnv1.Inquiry
	answer      *tarnv1.InquiryAnswer
	purges      []*tarnv1.PurgeOrder // of every host
	revoked     *tarnv1.Revocations
	away        bool           // nobody is registered
	lives       *observe.Lives // nil: of a release that does not tell lives apart
	asked       *tarnv1.RenewLeaseRequest
	issued      []byte // token of the last answer
}

func newPlane() *plane {
	return &plane{
		changed: make(chan struct{}), hosts: map[string]*tarnv1.Host{}, revision: 1,
		assignments: map[string][]*tarnv1.Assignment{}, latest: map[string]*tarnv1.ReplicaReport{},
	}
}

// update changes something and wakes all who wait.
func (p *plane) update(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *plane) Register(_ context.Context, req *tarnv1.RegisterRequest) (*tarnv1.RegisterResponse, error) {
	away, out := false, &tarnv1.RegisterResponse{Host: req.GetHost(), ClusterId: "test"}
	p.update(func() {
		if away = p.away; away {
			return
		}
		p.hosts[req.GetHost().GetId()] = proto.CloneOf(req.GetHost())
		p.registered++
		p.forgotten = false
		out.Revocations = p.revoked
	})
	if away {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("no control plane"))
	}
	return out, nil
}

func (p *plane) Assignments(ctx context.Context, req *tarnv1.AssignmentsRequest) (*tarnv1.AssignmentsResponse, error) {
	timeout := time.NewTimer(req.GetMaxWait().AsDuration())
	defer timeout.Stop()
	for {
		p.mu.Lock()
		revision, changed, forgotten, purges := p.revision, p.changed, p.forgotten, p.purges
		var all []*tarnv1.Assignment
		for _, a := range p.assignments[req.GetHostId()] {
			all = append(all, proto.CloneOf(a))
		}
		p.mu.Unlock()
		if forgotten {
			return nil, connect.NewError(connect.CodeNotFound, errors.New("host is not known"))
		}
		if revision != req.GetAfterRevision() {
			return &tarnv1.AssignmentsResponse{Revision: revision, Assignments: all, Purges: purges}, nil
		}
		select {
		case <-changed:
		case <-timeout.C:
			return &tarnv1.AssignmentsResponse{Revision: revision, Unchanged: true}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (p *plane) Report(_ context.Context, req *tarnv1.ReportRequest) (*tarnv1.ReportResponse, error) {
	var full bool
	var open []*tarnv1.Inquiry
	var revoked *tarnv1.Revocations
	p.update(func() {
		p.reports = append(p.reports, proto.CloneOf(req))
		for _, r := range req.GetReplicas() {
			p.latest[r.GetReplicaId()] = proto.CloneOf(r)
		}
		full, p.wantFull = p.wantFull, false
		if !bytes.Equal(p.revoked.GetDigest(), req.GetRevocationsDigest()) {
			revoked = p.revoked
		}
		for _, a := range req.GetAnswers() {
			if a.GetId() == p.inquiry.GetId() {
				p.inquiry, p.answer = nil, proto.CloneOf(a)
			}
		}
		if p.inquiry != nil {
			open = append(open, proto.CloneOf(p.inquiry))
		}
	})
	return &tarnv1.ReportResponse{WantFull: full, Inquiries: open, Revocations: revoked}, nil
}

func (p *plane) RenewLease(_ context.Context, req *tarnv1.RenewLeaseRequest) (*tarnv1.RenewLeaseResponse, error) {
	if p.refuses() {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("no leader"))
	}
	defer p.update(func() { p.granted++ })
	p.mu.Lock()
	defer p.mu.Unlock()
	resp := &tarnv1.RenewLeaseResponse{Nonce: req.GetNonce(), Duration: durationpb.New(cmp.Or(p.lease, leaseDuration))}
	if p.lives != nil {
		verdict, token := p.lives.Judge(1, req.GetHostId(), req.GetSessionId(), req.GetEcho(), func() bool { return true })
		if verdict != observe.Same {
			resp.AnotherLife = true
			return resp, nil
		}
		resp.Token, p.asked, p.issued = token, proto.CloneOf(req), token
	}
	for _, s := range req.GetShares() {
		if p.owns(req.GetHostId(), s) {
			resp.Granted = append(resp.Granted, s)
		} else {
			resp.Revoked = append(resp.Revoked, s)
		}
	}
	return resp, nil
}

func (p *plane) refuses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.noLeases
}

func (p *plane) renewals() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.granted
}

func (p *plane) owns(host string, s *tarnv1.LeaseShare) bool {
	for _, a := range p.assignments[host] {
		if a.GetReplicaId() == s.GetReplicaId() && a.GetRole() == tarnv1.Role_ROLE_ACTIVE && a.GetEpoch() == s.GetEpoch() {
			return true
		}
	}
	return false
}

// assign replaces everything that a host is to do.
func (p *plane) assign(host string, assignments ...*tarnv1.Assignment) {
	p.update(func() {
		p.assignments[host] = assignments
		p.revision++
	})
}

// await waits until the newest report of a replica is as wanted.
func (p *plane) await(t *testing.T, replica, what string, ok func(*tarnv1.ReplicaReport) bool) *tarnv1.ReplicaReport {
	t.Helper()
	var last *tarnv1.ReplicaReport
	p.until(t, func() bool {
		last = p.latest[replica]
		return last != nil && ok(last)
	}, func() string { return fmt.Sprintf("replica is not %s; last report: %v", what, last) })
	return last
}

// ask puts a question to whoever reports next, and waits for the answer.
func (p *plane) ask(t *testing.T, i *tarnv1.Inquiry) *tarnv1.InquiryAnswer {
	t.Helper()
	p.update(func() { p.inquiry, p.answer = i, nil })
	p.until(t, func() bool { return p.answer != nil }, func() string { return "no answer to " + i.GetId() })
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answer
}

// until waits for a condition, which runs under the plane's lock.
func (p *plane) until(t *testing.T, done func() bool, why func() string) {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for {
		p.mu.Lock()
		ok, changed := done(), p.changed
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatal("after 30 s: " + why())
		}
	}
}

// host is one agent under test with what lies on its disk.
type host struct {
	t      *testing.T
	plane  *plane
	dir    string
	id     string
	cfg    Config
	binary string // of an agent with a helper
	cancel context.CancelFunc
	done   chan error
	*Agent
}

func newCA(t *testing.T) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *identity.CA, dir string, role identity.Role) string {
	t.Helper()
	id := uuid.NewString()
	cert, key, err := ca.IssueKey(identity.Subject{Role: role, ID: id, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.SaveNode(dir, ca.CertPEM(), cert, key); err != nil {
		t.Fatal(err)
	}
	return id
}

func newHost(t *testing.T, p *plane, ca *identity.CA, name string) *host {
	t.Helper()
	dir := zfstest.TempDir(t)
	h := &host{t: t, plane: p, dir: dir, id: issue(t, ca, filepath.Join(dir, "data", "pki"), identity.RoleAgent)}
	h.cfg = Config{
		Name: name, DataDir: filepath.Join(dir, "data"), AvailabilityZone: "az-" + name, ControlPlane: p,
		Advertise: free(t), ReportInterval: 500 * time.Millisecond,
		Lease:  LeaseConfig{Duration: leaseDuration, Renew: leaseRenew, Margin: leaseMargin},
		Pools:  []PoolConfig{{Name: "tank", Path: filepath.Join(dir, "tank"), Capacity: 1 << 30, ReplicationDomain: "d"}},
		Logger: logger(t),
	}
	h.cfg.Listen = h.cfg.Advertise
	h.cfg.Admin.Listen = "127.0.0.1:0"
	return h
}

// logger writes what an agent says to the test's output when TARN_TEST_LOG is set.
func logger(t *testing.T) *slog.Logger {
	t.Helper()
	if os.Getenv("TARN_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// free finds a port, at an address of this process's own: one on 127.0.0.1 is given to
// somebody else as soon as it is let go of.
func free(t *testing.T) string {
	t.Helper()
	pid := os.Getpid()
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+pid>>14&0x7f, pid>>7&0x7f, 1+pid&0x7f))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (h *host) start() {
	h.t.Helper()
	agent, err := New(h.cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.Agent, h.cancel, h.done = agent, cancel, make(chan error, 1)
	go func() { h.done <- agent.Run(ctx) }()
	h.t.Cleanup(h.stop)
}

// stop ends the agent as SIGTERM would, and checks that it ends well.
func (h *host) stop() {
	if h.cancel == nil {
		return
	}
	h.cancel()
	h.cancel = nil
	if err := <-h.done; err != nil {
		h.t.Errorf("agent %s ended with %v", h.cfg.Name, err)
	}
}

func (h *host) assign(assignments ...*tarnv1.Assignment) { h.plane.assign(h.id, assignments...) }

// exists tells if path is there, as a client of the mountpoint would see.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// eventually waits for a condition that nobody announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick, limit := time.NewTicker(10*time.Millisecond), time.NewTimer(30*time.Second)
	defer tick.Stop()
	defer limit.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("after 30 s: %s is not so", what)
		}
	}
}

// active is the assignment of a share's owner.
func active(share, replica string, epoch uint64) *tarnv1.Assignment {
	return &tarnv1.Assignment{
		ReplicaId: replica, ShareId: share, ShareName: "s", Pool: "tank", Role: tarnv1.Role_ROLE_ACTIVE, Epoch: epoch, SizeGib: 1,
		Exports: &tarnv1.Exports{Revision: 3, Fsid: share, Rules: []*tarnv1.ExportRule{
			{AccessRuleId: "r1", AccessTo: "10.0.0.0/8", AccessLevel: tarnv1.AccessLevel_ACCESS_LEVEL_RW},
		}},
		Rpo: durationpb.New(10 * time.Second), Cadence: durationpb.New(time.Second),
		Lineage: []*tarnv1.LineageEntry{{Epoch: epoch, OwnerReplicaId: replica}},
	}
}

func ids(t *testing.T) (share, replica string) {
	t.Helper()
	return uuid.NewString(), uuid.NewString()
}
