package api

import (
	"context"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"

	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

func TestLimitsKeepIdentitiesApart(t *testing.T) {
	l := newLimits(RateLimit{PerSecond: 10, Burst: 3})
	now := time.Unix(1e9, 0)
	for i := range 3 {
		if _, ok := l.take("greedy", now); !ok {
			t.Fatalf("request %d of a burst of three was refused", i+1)
		}
	}
	wait, ok := l.take("greedy", now)
	if ok || wait != 100*time.Millisecond {
		t.Errorf("the fourth: %v, wait %v, want 100ms", ok, wait)
	}
	if _, ok := l.take("modest", now); !ok {
		t.Error("another identity pays for it")
	}
	if _, ok := l.take("greedy", now.Add(wait)); !ok {
		t.Error("refused although it waited as told")
	}
}

func TestLimitsAreBounded(t *testing.T) {
	l := newLimits(RateLimit{PerSecond: 1, Burst: 2})
	now := time.Unix(1e9, 0)
	for i := range maxLimited {
		l.take(strconv.Itoa(i), now)
	}
	l.take("one more", now)
	l.take("one more", now)
	if _, ok := l.take("and another", now); ok || len(l.buckets) != maxLimited {
		t.Errorf("identities beyond %d do not share a limit: allowed %v", len(l.buckets), ok)
	}
	later := now.Add(time.Minute)
	if _, ok := l.take("one more", later); !ok || len(l.buckets) != 1 {
		t.Errorf("%d idle identities are remembered", len(l.buckets))
	}
}

func TestLimitIsForPeopleOnly(t *testing.T) {
	served := 0
	handler := limiting{limits: newLimits(RateLimit{PerSecond: 1, Burst: 1})}.WrapUnary(
		func(context.Context, connect.AnyRequest) (connect.AnyResponse, error) {
			served++
			return nil, nil
		})
	call := func(g grant) error {
		ctx := withCaller(t.Context(), caller{grant: g, identity: identity.Identity{ID: strconv.Itoa(int(g))}})
		_, err := handler(ctx, connect.NewRequest(&tarnv1.GetRequest{}))
		return err
	}
	for _, g := range []grant{agent, control, nobody} {
		for range 3 {
			if err := call(g); err != nil {
				t.Errorf("grant %v: %v", g, err)
			}
		}
	}
	for _, g := range []grant{reader, member, operator} {
		if err := call(g); err != nil {
			t.Errorf("first of %v: %v", g, err)
		}
		err := call(g)
		var rpc *connect.Error
		if connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Fatalf("second of %v: %v", g, err)
		}
		rpc, _ = err.(*connect.Error)
		if rpc.Meta().Get(client.RetryAfterHeader) != "1" {
			t.Errorf("no hint when to retry: %v", rpc.Meta())
		}
	}
	if served != 12 {
		t.Errorf("%d requests got through, want 12", served)
	}
}
