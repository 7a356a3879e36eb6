package identity

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// port is an HTTPS port with an admission, of a control node.
type port struct {
	*Admission
	addr    string
	ca      *CA
	refused sync.Map // ids
}

func openPort(t *testing.T, limits Limits) *port {
	t.Helper()
	ca := newTestCA(t, "c")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &port{Admission: NewAdmission(limits), addr: l.Addr().String(), ca: ca}
	p.Refuse = func(id string) error {
		if _, refused := p.refused.Load(id); refused {
			return ErrRevoked
		}
		return nil
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name := r.Header.Get("Name"); name != "" && Claim(r.Context(), name) != nil {
				w.WriteHeader(http.StatusTooManyRequests)
			}
		}),
		TLSConfig:         p.Config(material(t, ca, node(RoleControl)).JoinServerConfig("http/1.1")),
		ConnContext:       p.ConnContext,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(p.Listener(l), "", "") }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		p.await(t, 0, 0)
	})
	return p
}

func (p *port) await(t *testing.T, strangers, known int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, k := p.Counts()
		if s == strangers && k == known {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d strangers and %d known, want %d and %d", s, k, strangers, known)
		}
		<-time.After(time.Millisecond)
	}
}

// open makes a connection with a certificate, which the server has verified.
func (p *port) open(t *testing.T, conf *tls.Config) net.Conn {
	t.Helper()
	conn, err := p.dial(t, conf)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// reaches tells whether a connection with a certificate is let in. It stays open.
func (p *port) reaches(t *testing.T, conf *tls.Config) error {
	t.Helper()
	_, err := p.dial(t, conf)
	return err
}

func (p *port) dial(t *testing.T, conf *tls.Config) (net.Conn, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", p.addr, conf)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return nil, err
	}
	_, err = conn.Read(make([]byte, 1))
	return conn, err
}

func TestStrangersAreFew(t *testing.T) {
	p := openPort(t, Limits{StrangersPerHost: 5, Strangers: 8})
	var conns []net.Conn
	for range 50 {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	p.await(t, 5, 0)
	// Another address is not kept out by that, and is known once it has said who it is.
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	agent := material(t, p.ca, node(RoleAgent))
	conn, err := tls.DialWithDialer(from, "tcp", p.addr, agent.ClientConfig(RoleControl))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p.await(t, 5, 1)
	for _, c := range conns {
		_ = c.Close()
	}
	p.await(t, 0, 1)
	if err := p.reaches(t, agent.ClientConfig(RoleControl)); err != nil {
		t.Errorf("after the flood: %v", err)
	}
}

func TestStrangersDoNotStay(t *testing.T) {
	p := openPort(t, Limits{Patience: 50 * time.Millisecond})
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a stranger was answered")
	}
	p.await(t, 0, 0)
}

// TestTheKnownStay: the end of a stranger's time is nothing to a connection that was
// claimed meanwhile.
func TestTheKnownStay(t *testing.T) {
	a := NewAdmission(Limits{Patience: time.Hour})
	for claimed, want := range map[bool]error{true: nil, false: io.ErrClosedPipe} {
		ours, _ := net.Pipe()
		conn := a.enter(ours)
		if claimed {
			if err := conn.claim("ann", false); err != nil {
				t.Fatal(err)
			}
		}
		conn.outstay()
		if err := ours.SetDeadline(time.Now()); !errors.Is(err, want) {
			t.Errorf("claimed %v: %v", claimed, err)
		}
		if err := conn.Close(); claimed && err != nil {
			t.Error(err)
		}
	}
	if strangers, known := a.Counts(); strangers+known != 0 {
		t.Errorf("%d strangers and %d known are left", strangers, known)
	}
}

func TestIdentitiesHaveTheirShare(t *testing.T) {
	p := openPort(t, Limits{PerIdentity: 3, StrangersPerHost: 100})
	greedy, modest := material(t, p.ca, node(RoleAgent)), material(t, p.ca, node(RoleOperator))
	control := material(t, p.ca, node(RoleControl))
	for i := range 10 {
		if err := p.reaches(t, greedy.ClientConfig(RoleControl)); (err == nil) != (i < 3) {
			t.Errorf("connection %d: %v", i+1, err)
		}
		if err := p.reaches(t, control.ClientConfig(RoleControl)); err != nil {
			t.Errorf("control node's connection %d: %v", i+1, err)
		}
	}
	if err := p.reaches(t, modest.ClientConfig(RoleControl)); err != nil {
		t.Errorf("another identity: %v", err)
	}
	p.await(t, 0, 14)
}

// TestUsersWithoutCertificateAreClaimed: a stranger whom a handler recognizes counts as
// that user from then on.
func TestUsersWithoutCertificateAreClaimed(t *testing.T) {
	p := openPort(t, Limits{PerIdentity: 2})
	bare := material(t, p.ca, node(RoleAgent)).ClientConfig(RoleControl)
	bare.GetClientCertificate = nil
	for i := range 3 {
		transport := &http.Transport{TLSClientConfig: bare}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequest(http.MethodGet, "https://"+p.addr, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Name", "ann")
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if (res.StatusCode == http.StatusOK) != (i < 2) {
			t.Errorf("connection %d: %s", i+1, res.Status)
		}
	}
	p.await(t, 1, 2)
}

// TestRevokedAreDropped: an identity that is refused from now on loses what it has open,
// also that of a control node, which no limit counts; others keep theirs.
func TestRevokedAreDropped(t *testing.T) {
	p := openPort(t, Limits{})
	kept := material(t, p.ca, node(RoleAgent))
	stays := p.open(t, kept.ClientConfig(RoleControl))
	for _, role := range []Role{RoleAgent, RoleControl, RoleClient, RoleOperator} {
		s := node(role)
		if role == RoleClient {
			s.Project, s.ProjectRole = "p", ProjectMember
		}
		revoked := material(t, p.ca, s)
		conns := []net.Conn{p.open(t, revoked.ClientConfig(RoleControl)), p.open(t, revoked.ClientConfig(RoleControl))}
		p.await(t, 0, 3)
		p.refused.Store(s.ID, true)
		if n := p.Drop(s.ID); n != 2 {
			t.Errorf("%s: %d connections were dropped", role, n)
		}
		p.await(t, 0, 1)
		for _, conn := range conns {
			_, _ = io.Copy(io.Discard, conn) // to its end, in whichever way it came
		}
		if err := p.reaches(t, revoked.ClientConfig(RoleControl)); err == nil {
			t.Errorf("%s: let in again", role)
		}
		p.await(t, 0, 1)
		if n := p.Drop(s.ID); n != 0 {
			t.Errorf("%s: %d connections were left", role, n)
		}
	}
	if _, err := io.WriteString(stays, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answers, err := io.ReadAll(stays); err != nil || bytes.Count(answers, []byte("200 OK")) != 2 {
		t.Errorf("another identity: %q, %v", answers, err)
	}
}
