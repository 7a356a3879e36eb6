package observe

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

func question() *tarnv1.Inquiry {
	return &tarnv1.Inquiry{Question: &tarnv1.Inquiry_Divergent{Divergent: &tarnv1.DivergentQuestion{Guid: 7}}}
}

// answers sends what a host says to the questions it was asked.
func (s *State) answers(host string, list ...*tarnv1.InquiryAnswer) {
	r := report("a", 1, false)
	r.HostId, r.Answers = host, list
	s.Report(r, time.Now())
}

func TestInquiryFindsItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newState(t)
		got := make(chan *tarnv1.InquiryAnswer, 1)
		go func() {
			a, err := s.Ask(t.Context(), "h", question())
			if err != nil {
				t.Error(err)
			}
			got <- a
		}()
		synctest.Wait()
		open := s.Inquiries("h")
		if len(open) != 1 || open[0].GetDivergent().GetGuid() != 7 || len(s.Inquiries("other")) != 0 {
			t.Fatalf("open questions %v", open)
		}
		mine := &tarnv1.InquiryAnswer{Id: open[0].GetId()}
		s.answers("other", mine) // not asked, not believed
		s.answers("h", &tarnv1.InquiryAnswer{Id: "unheard of"})
		synctest.Wait()
		if len(s.Inquiries("h")) != 1 {
			t.Fatal("somebody else's answer ended the question")
		}
		s.answers("h", mine, mine)
		if a := <-got; a.GetId() != open[0].GetId() {
			t.Errorf("answer %v", a)
		}
		if len(s.Inquiries("h")) != 0 {
			t.Error("an answered question is asked again")
		}
	})
}

func TestInquiriesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newState(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Ask(ctx, "h", question()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("silent host: %v", err)
		}
		if len(s.Inquiries("h")) != 0 {
			t.Error("nobody waits for the answer any more, and it is asked for")
		}
		var asking sync.WaitGroup
		errs := make(chan error, maxHostInquiries)
		for range maxHostInquiries {
			asking.Go(func() {
				_, err := s.Ask(t.Context(), "h", question())
				errs <- err
			})
		}
		synctest.Wait()
		if _, err := s.Ask(t.Context(), "h", question()); !errors.Is(err, ErrTooManyInquiries) {
			t.Errorf("one too many: %v", err)
		}
		s.Lead(time.Now())
		asking.Wait()
		for range maxHostInquiries {
			if err := <-errs; !errors.Is(err, ErrLedAnew) {
				t.Errorf("a new leader: %v", err)
			}
		}
	})
}

// TestOrphansAreWhatTheHostSaidLast: a report that does not know is no news.
func TestOrphansAreWhatTheHostSaidLast(t *testing.T) {
	s := newState(t)
	for i, step := range []struct {
		knows bool
		says  []*tarnv1.DivergentCopy
		want  int
		told  bool
	}{
		{false, nil, 0, false},
		{true, []*tarnv1.DivergentCopy{{Guid: 1}, {Guid: 2}}, 2, true},
		{false, nil, 2, true},
		{true, nil, 0, true},
	} {
		r := report("a", uint64(i+1), true)
		r.OrphanedCopies, r.OrphansKnown = step.says, step.knows
		s.Report(r, at(0))
		if h, _ := s.Host("h"); len(h.Orphaned) != step.want || h.OrphansTold != step.told {
			t.Errorf("step %d: %d copies, told %v", i, len(h.Orphaned), h.OrphansTold)
		}
	}
}
