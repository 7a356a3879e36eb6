package observe

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	tarnv1 "tarn/proto/tarn/v1"
)

// Bounds of what is asked at one time.
const (
	maxInquiries     = 1024
	maxHostInquiries = 64
)

// Why Ask has no answer.
var (
	ErrTooManyInquiries = errors.New("too many questions are open; ask again in a moment")
	ErrLedAnew          = errors.New("the leader changed while the host was asked; ask again")
)

// asked is one open question to a host.
type asked struct {
	inquiry *tarnv1.Inquiry
	host    string
	answer  chan *tarnv1.InquiryAnswer // buffered; closed when this node leads anew
}

// Ask puts a question to a host with the answer to its next report, and waits until
// the host has answered or ctx ends. Questions live in the leader's memory only: a
// new leader knows none of them. The id is set here. The answer's own error says why
// the host could not tell.
func (s *State) Ask(ctx context.Context, hostID string, question *tarnv1.Inquiry) (*tarnv1.InquiryAnswer, error) {
	q := &asked{inquiry: proto.CloneOf(question), host: hostID, answer: make(chan *tarnv1.InquiryAnswer, 1)}
	q.inquiry.Id = uuid.NewString()
	if err := s.open(q); err != nil {
		return nil, err
	}
	defer s.drop(q)
	select {
	case a, ok := <-q.answer:
		if !ok {
			return nil, ErrLedAnew
		}
		return a, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for host %s: %w", hostID, ctx.Err())
	}
}

func (s *State) open(q *asked) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asked) >= maxInquiries || len(s.inquiries(q.host)) >= maxHostInquiries {
		return ErrTooManyInquiries
	}
	s.asked[q.inquiry.GetId()] = q
	return nil
}

func (s *State) drop(q *asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked[q.inquiry.GetId()] == q {
		delete(s.asked, q.inquiry.GetId())
	}
}

// Inquiries are the open questions to a host, for the answer to its report. Treat
// them as immutable.
func (s *State) Inquiries(hostID string) []*tarnv1.Inquiry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inquiries(hostID)
}

// inquiries is Inquiries; the caller has the lock.
func (s *State) inquiries(hostID string) []*tarnv1.Inquiry {
	var list []*tarnv1.Inquiry
	for _, q := range s.asked {
		if q.host == hostID {
			list = append(list, q.inquiry)
		}
	}
	return list
}

// answered passes answers on to who asked. One that nobody waits for, or that comes
// from another host, is dropped. The caller has the lock.
func (s *State) answered(hostID string, answers []*tarnv1.InquiryAnswer) {
	for _, a := range answers {
		if q := s.asked[a.GetId()]; q != nil && q.host == hostID {
			delete(s.asked, a.GetId())
			q.answer <- a
		}
	}
}

// giveUp ends all questions: this node leads anew. The caller has the lock.
func (s *State) giveUp() {
	for _, q := range s.asked {
		close(q.answer)
	}
	s.asked = make(map[string]*asked)
}
