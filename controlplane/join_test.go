package controlplane_test

import (
	"context"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// Of two hosts that come with one token at the same moment, each to another node, one
// gets a certificate, whoever it is, and the other the answer of a token that was used.
func TestOneTokenIsForOneOfTwoHosts(t *testing.T) {
	h := newHarness(t, 3)
	h.raised()
	op := h.operator()
	for range 4 { // as many attempts as are let through without a pause
		made, err := op.Operator.CreateJoinToken(t.Context(), &tarnv1.CreateJoinTokenRequest{Role: "agent"})
		if err != nil {
			t.Fatal(err)
		}
		token, err := identity.ParseToken(made.GetToken())
		if err != nil {
			t.Fatal(err)
		}
		start := make(chan struct{})
		codes := make(chan connect.Code, 2)
		var both sync.WaitGroup
		for i := range 2 {
			csr, _, err := identity.NewCSR()
			if err != nil {
				t.Fatal(err)
			}
			host, err := client.New(client.Config{Addresses: h.addresses()[i : i+1], TLS: token.ClientConfig()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(host.Close)
			req := &tarnv1.JoinRequest{Token: made.GetToken(), NodeId: uuid.NewString(), Csr: csr}
			both.Go(func() {
				<-start
				_, err := host.Join.Join(context.WithoutCancel(t.Context()), req)
				if err == nil {
					codes <- 0
					return
				}
				codes <- connect.CodeOf(err)
			})
		}
		close(start)
		both.Wait()
		first, second := <-codes, <-codes
		if min(first, second) != 0 || max(first, second) != connect.CodePermissionDenied {
			t.Fatalf("two hosts with one token got %v and %v, want one success and one refusal", first, second)
		}
	}
}
