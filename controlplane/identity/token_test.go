package identity

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func newTestToken(t *testing.T, ca *CA) (Token, TokenRecord) {
	t.Helper()
	token, record, err := NewToken(ca.Cluster(), ca.Hash(), RoleAgent, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token, record
}

func TestTokenRoundTrip(t *testing.T) {
	token, record := newTestToken(t, newTestCA(t, "dotted.cluster.name"))
	again, err := ParseToken(token.Reveal())
	if err != nil || again != token {
		t.Fatalf("got %v, %v", again, err)
	}
	now := time.Now()
	if err := record.Verify(again, RoleAgent, now); err != nil {
		t.Fatal(err)
	}
	other, _ := newTestToken(t, newTestCA(t, "dotted.cluster.name"))
	for name, err := range map[string]error{
		"other secret": record.Verify(other, RoleAgent, now),
		"other role":   record.Verify(again, RoleControl, now),
		"expired":      record.Verify(again, RoleAgent, record.Expires),
	} {
		if !errors.Is(err, ErrToken) {
			t.Errorf("%s: got %v, want ErrToken", name, err)
		}
	}
}

func TestTokenHidesItsSecret(t *testing.T) {
	token, record := newTestToken(t, newTestCA(t, "c"))
	_, secret, _ := cutLast(token.Reveal())
	for _, text := range []string{token.String(), fmt.Sprintf("%v %+v %#v %s", token, token, token, token), record.Hash} {
		if strings.Contains(text, secret) {
			t.Errorf("secret in %q", text)
		}
	}
}

func TestPinnedJoin(t *testing.T) {
	ca := newTestCA(t, "c")
	token, _ := newTestToken(t, ca)
	control := material(t, ca, node(RoleControl))
	if serverErr, clientErr, _ := shake(t, control.JoinServerConfig(), token.ClientConfig()); serverErr != nil || clientErr != nil {
		t.Fatalf("server %v, client %v", serverErr, clientErr)
	}
	if err := token.CheckCA(control.CAPEM()); err != nil {
		t.Fatal(err)
	}
	foreign := newTestCA(t, "c")
	if _, err, _ := shake(t, material(t, foreign, node(RoleControl)).JoinServerConfig(), token.ClientConfig()); !errors.Is(err, ErrIdentity) {
		t.Errorf("foreign authority: %v", err)
	}
	if _, err, _ := shake(t, material(t, ca, node(RoleAgent)).JoinServerConfig(), token.ClientConfig()); !errors.Is(err, ErrIdentity) {
		t.Errorf("agent in place of a control node: %v", err)
	}
	if err := token.CheckCA(foreign.CertPEM()); !errors.Is(err, ErrIdentity) {
		t.Errorf("CheckCA: %v", err)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("tarn1.c." + strings.Repeat("0", 64) + "." + strings.Repeat("A", 43))
	f.Add("tarn1....")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err == nil && token.Reveal() != text {
			t.Fatalf("%q reads as %q", text, token.Reveal())
		}
	})
}
