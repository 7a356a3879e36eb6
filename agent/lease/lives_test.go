package lease

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	tarnv1 "tarn/proto/tarn/v1"

	"google.golang.org/protobuf/types/known/durationpb"
)

// chained draws a token for every answer, and checks what is echoed.
type chained struct {
	t      *testing.T
	mu     sync.Mutex
	issued []byte // with the last answer that arrived
	lose   bool   // answers get lost
	stray  bool   // answers carry another nonce
	old    bool   // of a release without tokens
	over   bool   // another life goes on
	asked  int

	told    int      // times of another life
	results []string // of renewals
}

// with changes or reads it.
func (c *chained) with(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *chained) RenewLease(_ context.Context, req *tarnv1.RenewLeaseRequest) (*tarnv1.RenewLeaseResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if !bytes.Equal(req.GetEcho(), c.issued) {
		c.t.Errorf("request %d echoes %x, the last answer had %x", req.GetNonce(), req.GetEcho(), c.issued)
	}
	token := make([]byte, 24)
	if _, err := rand.Read(token); err != nil {
		return nil, err
	}
	resp := &tarnv1.RenewLeaseResponse{Nonce: req.GetNonce(), Duration: durationpb.New(span), AnotherLife: c.over}
	switch {
	case c.lose:
		return nil, errors.New("lost")
	case c.stray:
		resp.Nonce++
		resp.Token = token
		return resp, nil
	case c.over:
		return resp, nil
	case !c.old:
		resp.Token, c.issued = token, token
	}
	resp.Granted = req.GetShares()
	return resp, nil
}

func TestTokensAreOfTheAnswersThatWereWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader := &chained{t: t}
		k, err := NewKeeper(Config{
			HostID: "host", SessionID: "session", Renewer: leader, Every: every, Margin: margin,
			AnotherLife: func() { leader.with(func() { leader.told++ }) },
			Renewed:     func(result string) { leader.with(func() { leader.results = append(leader.results, result) }) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		time.Sleep(time.Minute)
		leader.with(func() {
			if leader.asked != 0 {
				t.Error("the leader was asked before it can know the session")
			}
		})
		k.Want(nil)
		time.Sleep(10 * every)
		leader.with(func() {
			if leader.asked < 9 || len(leader.results) != 0 {
				t.Errorf("a host without a share asked %d times which life it is; results %v", leader.asked, leader.results)
			}
		})
		k.Want([]Share{share("a", 1)})
		for _, change := range []func(){
			func() {}, func() { leader.lose = true }, func() { leader.lose = false },
			func() { leader.stray = true }, func() { leader.stray = false }, func() { leader.old = true }, func() { leader.old = false },
		} {
			leader.with(change)
			time.Sleep(3 * every)
			synctest.Wait()
		}
		if !k.Held("share-a", "a", 1) {
			t.Error("the lease is lost")
		}
		leader.with(func() { leader.over = true })
		time.Sleep(every + time.Millisecond)
		synctest.Wait()
		if k.Held("share-a", "a", 1) {
			t.Error("the lease is held after the word of another life")
		}
		asked := 0
		leader.with(func() { asked = leader.asked })
		k.Want([]Share{share("b", 1)})
		time.Sleep(time.Minute)
		leader.with(func() {
			if leader.asked != asked || k.Count() != 0 || leader.told != 1 {
				t.Errorf("a life that is over asked %d times more, holds %d, was told %d times", leader.asked-asked, k.Count(), leader.told)
			}
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
