package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	tarnv1 "tarn/proto/tarn/v1"
)

const (
	// maxOpen bounds the questions that wait for an answer here.
	maxOpen = 64
	// answerTimeout bounds how long one answer may take.
	answerTimeout = 15 * time.Second
)

// inquiries answers the leader's questions, one after the other, with what is on
// this host. Answering changes nothing. Safe for concurrent use.
type inquiries struct {
	answer func(context.Context, *tarnv1.Inquiry) *tarnv1.InquiryAnswer
	// ready is called when there is an answer to send.
	ready func()
	kick  chan struct{}

	mu    sync.Mutex
	known map[string]bool // by id: waiting, being answered, or answer not yet sent
	queue []*tarnv1.Inquiry
	done  []*tarnv1.InquiryAnswer
}

func newInquiries(answer func(context.Context, *tarnv1.Inquiry) *tarnv1.InquiryAnswer, ready func()) *inquiries {
	return &inquiries{answer: answer, ready: ready, kick: make(chan struct{}, 1), known: map[string]bool{}}
}

// ask takes questions in. Those that are known already are passed over: the leader
// repeats a question until it has the answer.
func (q *inquiries) ask(questions []*tarnv1.Inquiry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range questions {
		if q.known[i.GetId()] || len(q.known) >= maxOpen {
			continue
		}
		q.known[i.GetId()] = true
		q.queue = append(q.queue, i)
	}
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

// run answers until ctx ends.
func (q *inquiries) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.kick:
		}
		for i := q.next(); i != nil && ctx.Err() == nil; i = q.next() {
			limited, cancel := context.WithTimeout(ctx, answerTimeout)
			a := q.answer(limited, i)
			cancel()
			q.mu.Lock()
			q.done = append(q.done, a)
			q.mu.Unlock()
			q.ready()
		}
	}
}

func (q *inquiries) next() *tarnv1.Inquiry {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		return nil
	}
	i := q.queue[0]
	q.queue = q.queue[1:]
	return i
}

// take gives the answers for the next report; sent or notSent has to follow.
func (q *inquiries) take() []*tarnv1.InquiryAnswer {
	q.mu.Lock()
	defer q.mu.Unlock()
	answers := q.done
	q.done = nil
	return answers
}

// sent forgets answers that the leader has.
func (q *inquiries) sent(answers []*tarnv1.InquiryAnswer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, a := range answers {
		delete(q.known, a.GetId())
	}
}

// notSent keeps answers for the next report. If the report was refused as it was, the
// next one says so instead: an answer must not keep everything else from being heard,
// nor be asked for again.
func (q *inquiries) notSent(answers []*tarnv1.InquiryAnswer, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		q.done = append(answers, q.done...)
		return
	}
	for _, a := range answers {
		if a.GetAnswer() == nil {
			delete(q.known, a.GetId()) // the refusal was refused, too
			continue
		}
		q.done = append(q.done, &tarnv1.InquiryAnswer{Id: a.GetId(), Error: "the control plane does not take the host's answer: upgrade both"})
	}
}

// errQuestion is the answer to what this version does not know.
var errQuestion = errors.New("this host's agent does not know the question; upgrade it")

// answer finds the answer to one question.
func (a *Agent) answer(ctx context.Context, i *tarnv1.Inquiry) *tarnv1.InquiryAnswer {
	out := &tarnv1.InquiryAnswer{Id: i.GetId()}
	err := errQuestion
	switch q := i.GetQuestion().(type) {
	case *tarnv1.Inquiry_Retention:
		var p *tarnv1.RetentionPreview
		if p, err = a.previewRetention(ctx, q.Retention); err == nil {
			out.Answer = &tarnv1.InquiryAnswer_Retention{Retention: p}
		}
	case *tarnv1.Inquiry_Divergent:
		var d *tarnv1.DivergentDetail
		if d, err = a.describeCopy(ctx, q.Divergent); err == nil {
			out.Answer = &tarnv1.InquiryAnswer_Divergent{Divergent: d}
		}
	}
	if handled, failed := a.answerManaging(ctx, i, out); handled {
		err = failed
	}
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

func (a *Agent) previewRetention(ctx context.Context, q *tarnv1.RetentionQuestion) (*tarnv1.RetentionPreview, error) {
	worker := a.workers.worker(q.GetReplicaId())
	if worker == nil {
		return nil, fmt.Errorf("replica %s: %w", q.GetReplicaId(), errNotHere)
	}
	return worker.Preview(ctx, q.GetKeep())
}
