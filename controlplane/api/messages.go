package api

import (
	"context"
	"iter"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// messages is MessageService.
type messages struct{ *core }

func (c caller) message(v *raftfsm.View, id string) (*tarnv1.UserMessage, error) {
	if m, ok := v.Message(id); ok && c.mayWrite(m.GetProjectId()) {
		return m, nil
	}
	return nil, notFound("message", id)
}

// GetMessage implements tarnv1connect.MessageServiceHandler.
func (s *messages) GetMessage(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.UserMessage, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	return callerFrom(ctx).message(v, req.GetId())
}

// ListMessages implements tarnv1connect.MessageServiceHandler.
func (s *messages) ListMessages(ctx context.Context, req *tarnv1.ListMessagesRequest) (*tarnv1.ListMessagesResponse, error) {
	v, err := s.read(ctx, req.GetConsistency())
	if err != nil {
		return nil, err
	}
	keep := func(m *tarnv1.UserMessage) bool {
		return matches(req.GetResourceId(), m.GetResourceId()) && matches(req.GetResourceType(), m.GetResourceType()) &&
			matches(req.GetActionId(), m.GetActionId()) && matches(req.GetDetailId(), m.GetDetailId())
	}
	order := func(m *tarnv1.UserMessage) cursor { return byTime(m.GetCreatedAt(), m.GetId()) }
	found, next, _ := page(messagesIn(v, callerFrom(ctx), req), keep, order, window{limit: req.GetLimit(), token: req.GetPageToken()})
	return &tarnv1.ListMessagesResponse{Messages: found, NextPageToken: next}, nil
}

func messagesIn(v *raftfsm.View, who caller, req *tarnv1.ListMessagesRequest) iter.Seq[*tarnv1.UserMessage] {
	if req.GetAllProjects() {
		return v.Messages()
	}
	return v.MessagesOfProject(who.project)
}

// DeleteMessage implements tarnv1connect.MessageServiceHandler.
func (s *messages) DeleteMessage(ctx context.Context, req *tarnv1.GetRequest) (*tarnv1.Empty, error) {
	who := callerFrom(ctx)
	return done(s.change(ctx, func(v *raftfsm.View) (*raftv1.Command, error) {
		if _, err := who.message(v, req.GetId()); err != nil {
			return nil, err
		}
		return &raftv1.Command{Verb: &raftv1.Command_DeleteMessage{DeleteMessage: &raftv1.DeleteMessage{Id: req.GetId()}}}, nil
	}))
}
