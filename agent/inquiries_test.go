package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	tarnv1 "tarn/proto/tarn/v1"
)

func TestInquiriesAreAnsweredOnce(t *testing.T) {
	asked := map[string]int{}
	ready := make(chan struct{}, 10)
	q := newInquiries(func(_ context.Context, i *tarnv1.Inquiry) *tarnv1.InquiryAnswer {
		asked[i.GetId()]++
		return &tarnv1.InquiryAnswer{Id: i.GetId()}
	}, func() { ready <- struct{}{} })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.run(ctx) }()
	q.ask([]*tarnv1.Inquiry{{Id: "a"}, {Id: "b"}})
	<-ready
	<-ready
	q.ask([]*tarnv1.Inquiry{{Id: "a"}, {Id: "b"}}) // the leader has not heard yet
	answers := q.take()
	if len(answers) != 2 {
		t.Fatalf("answers %v", answers)
	}
	q.notSent(answers, errors.New("no leader"))
	if answers = q.take(); len(answers) != 2 {
		t.Errorf("answers that were not sent: %v", answers)
	}
	// One that is refused becomes an error, which is not asked for again, and that ends it.
	refused := connect.NewError(connect.CodeInvalidArgument, errors.New("too long"))
	answers[0].Answer = &tarnv1.InquiryAnswer_Retention{Retention: &tarnv1.RetentionPreview{}}
	q.notSent(answers[:1], refused)
	q.sent(answers[1:])
	q.ask([]*tarnv1.Inquiry{{Id: answers[0].GetId()}})
	left := q.take()
	if len(left) != 1 || left[0].GetId() != answers[0].GetId() || left[0].GetError() == "" || left[0].GetAnswer() != nil {
		t.Errorf("answers left: %v", left)
	}
	q.notSent(left, refused)
	if left := q.take(); len(left) != 0 {
		t.Errorf("answers left: %v", left)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if asked["a"] != 1 || asked["b"] != 1 {
		t.Errorf("answered %v times", asked)
	}
}

// TestRetentionPreview asks a real agent with the answer to its report; the answer
// changes nothing.
func TestRetentionPreview(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	h.start()
	p.await(t, replica, "writable", writable)
	root := "tank/tarn/" + replica
	for _, name := range []string{"tarn.1", "other", "tarn-user-x", "tarn.2"} {
		if err := h.storage.Snapshot(t.Context(), root+"@"+name); err != nil {
			t.Fatal(err)
		}
	}
	keep := &tarnv1.KeepPolicy{Rules: []*tarnv1.KeepRule{{UpTo: durationpb.New(time.Hour)}}}
	for _, a := range []struct {
		question *tarnv1.Inquiry
		check    func(*tarnv1.InquiryAnswer) bool
	}{
		{&tarnv1.Inquiry{Id: "policy", Question: &tarnv1.Inquiry_Retention{Retention: &tarnv1.RetentionQuestion{ReplicaId: replica, Keep: keep}}},
			func(a *tarnv1.InquiryAnswer) bool {
				r := a.GetRetention()
				return r.GetTotal() == 4 && r.GetGoing() == 0 && r.GetKeep() == "1h:all" && len(r.GetSnapshots()) == 4 &&
					r.GetSnapshots()[1].GetCauses()[0].GetReason() == tarnv1.RetentionReason_RETENTION_REASON_FOREIGN
			}},
		{&tarnv1.Inquiry{Id: "elsewhere", Question: &tarnv1.Inquiry_Retention{Retention: &tarnv1.RetentionQuestion{ReplicaId: "nobody"}}},
			func(a *tarnv1.InquiryAnswer) bool { return a.GetError() != "" && a.GetAnswer() == nil }},
		{&tarnv1.Inquiry{Id: "newer"}, func(a *tarnv1.InquiryAnswer) bool { return a.GetError() == errQuestion.Error() }},
	} {
		answer := p.ask(t, a.question)
		if !a.check(answer) {
			t.Errorf("%s: answer %v", a.question.GetId(), answer)
		}
	}
	if list, err := h.storage.Versions(t.Context(), root); err != nil || len(list) != 4 {
		t.Errorf("afterwards %v, %v", list, err)
	}
}
