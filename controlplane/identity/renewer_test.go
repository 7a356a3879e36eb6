package identity

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// renewing is a node's directory with an authority that signs for it.
type renewing struct {
	ca       *CA
	subject  Subject
	dir      string
	material *Material
	asked    atomic.Int32
	failures int32         // first calls that are refused
	ahead    time.Duration // the signer's clock
}

func newRenewing(t *testing.T, ttl time.Duration) *renewing {
	t.Helper()
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	r := &renewing{ca: ca, dir: t.TempDir(), subject: Subject{Role: RoleAgent, ID: uuid.NewString()}}
	short := r.subject
	short.TTL = ttl
	cert, key, err := ca.IssueKey(short)
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveNode(r.dir, ca.CertPEM(), cert, key); err != nil {
		t.Fatal(err)
	}
	if r.material, err = LoadMaterial(r.dir); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *renewing) sign(_ context.Context, csr []byte) ([]byte, error) {
	if r.asked.Add(1) <= r.failures {
		return nil, errors.New("nobody there")
	}
	if r.ahead != 0 {
		parsed, err := x509.ParseCertificateRequest(csr)
		if err != nil {
			return nil, err
		}
		return signAhead(r.ca, r.subject, parsed.PublicKey, r.ahead)
	}
	return r.ca.IssueCSR(r.subject, csr)
}

func (r *renewing) renewer(t *testing.T) *Renewer {
	t.Helper()
	made, err := NewRenewer(RenewerConfig{Dir: r.dir, Material: r.material, Sign: r.sign, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// TestRenewedAtTwoThirds lets days pass: not before, not after, and again when the
// authority was away for a while.
func TestRenewedAtTwoThirds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewing(t, 6*24*time.Hour)
		r.failures = 3
		ends, due := r.material.NotAfter(), r.material.RenewAt()
		if left := ends.Sub(due); left < 47*time.Hour || left > 49*time.Hour {
			t.Errorf("renewed %v before the end of six days", left)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.renewer(t).Run(ctx) }()
		pause(ctx, time.Until(due)-time.Minute)
		if n := r.asked.Load(); n != 0 {
			t.Errorf("asked %d times too early", n)
		}
		pause(ctx, 24*time.Hour)
		if n, now := r.asked.Load(), r.material.NotAfter(); n != 4 || !now.After(ends) {
			t.Errorf("after %d calls the certificate ends %v, was %v", n, now, ends)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRenewalChangesNeitherAuthorityNorIdentity(t *testing.T) {
	r := newRenewing(t, time.Hour)
	before := r.material.NotAfter()
	other, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	own, subject := r.ca, r.subject
	for name, change := range map[string]func(){
		"another authority": func() { r.ca = other },
		"another id":        func() { r.subject.ID = uuid.NewString() },
		"another role":      func() { r.subject.Role = RoleControl },
	} {
		r.ca, r.subject = own, subject
		change()
		if err := r.renewer(t).renew(t.Context()); err == nil || !r.material.NotAfter().Equal(before) {
			t.Errorf("%s: %v, ends %v", name, err, r.material.NotAfter())
		}
	}
}

// TestRenewalMindsTheClock: a signer's clock that is wrong locks nobody out, and a node whose
// own clock was set back gets a certificate that is good now.
func TestRenewalMindsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewing(t, 6*24*time.Hour)
		before := r.material.NotAfter()
		r.ahead = 30 * 24 * time.Hour
		if err := r.renewer(t).renew(t.Context()); err == nil || !r.material.NotAfter().Equal(before) {
			t.Errorf("signer ahead: %v, ends %v", err, r.material.NotAfter())
		}
		r.ahead = -30 * 24 * time.Hour
		if err := r.renewer(t).renew(t.Context()); err == nil || !r.material.NotAfter().Equal(before) {
			t.Errorf("signer behind: %v, ends %v", err, r.material.NotAfter())
		}
		r.ahead = time.Hour
		pause(t.Context(), time.Until(before)-time.Hour)
		if err := r.renewer(t).renew(t.Context()); err != nil || !r.material.early(time.Now()) {
			t.Errorf("a last resort: %v", err)
		}
	})
}

func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewing(t, time.Hour)
		future := issueFrom(t, r.ca, r.subject, 365*24*time.Hour)
		if err := SaveNode(r.dir, future.ca, future.cert, future.key); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.renewer(t).Run(ctx) }()
		synctest.Wait()
		if r.material.early(time.Now()) || r.asked.Load() != 1 {
			t.Errorf("asked %d times, still good from the future", r.asked.Load())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// issueFrom makes a certificate as a signer does whose clock is ahead.
func issueFrom(t *testing.T, ca *CA, s Subject, ahead time.Duration) triple {
	t.Helper()
	key, keyPEM, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := signAhead(ca, s, key.Public(), ahead)
	if err != nil {
		t.Fatal(err)
	}
	return triple{ca.CertPEM(), cert, keyPEM}
}

func signAhead(ca *CA, s Subject, pub crypto.PublicKey, ahead time.Duration) ([]byte, error) {
	template, err := ca.leafTemplate(s)
	if err != nil {
		return nil, err
	}
	template.NotBefore, template.NotAfter = template.NotBefore.Add(ahead), template.NotAfter.Add(ahead)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, pub, ca.key)
	return encodeCert(der), err
}

// TestListenerTakesUpARenewedCertificate wants new handshakes to see it.
func TestListenerTakesUpARenewedCertificate(t *testing.T) {
	r := newRenewing(t, time.Minute)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := tls.NewListener(inner, r.material.ServerConfig())
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake()
			_ = conn.Close()
		}
	}()
	serial := func() string {
		conn, err := tls.Dial("tcp", inner.Addr().String(), r.material.ClientConfig(RoleAgent))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	if err := r.renewer(t).renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := serial(); after == before {
		t.Error("the listener still shows the old certificate")
	}
}
