package cli

import (
	"context"
	"io"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type messageCmd struct {
	List   messageList   `cmd:"" help:"List messages, newest last."`
	Show   messageShow   `cmd:"" help:"Show one message."`
	Delete messageDelete `cmd:"" help:"Delete messages."`
}

var messageView = view[*tarnv1.UserMessage]{
	id: (*tarnv1.UserMessage).GetId,
	list: []column[*tarnv1.UserMessage]{
		{"ID", (*tarnv1.UserMessage).GetId},
		{"CREATED", func(m *tarnv1.UserMessage) string { return stampText(m.GetCreatedAt()) }},
		{"RESOURCE", func(m *tarnv1.UserMessage) string { return m.GetResourceType() + " " + m.GetResourceId() }},
		{"ACTION", (*tarnv1.UserMessage).GetActionId},
		{"DETAIL", (*tarnv1.UserMessage).GetDetailId},
		{"MESSAGE", (*tarnv1.UserMessage).GetUserMessage},
	},
	detail: []column[*tarnv1.UserMessage]{
		{"ID", (*tarnv1.UserMessage).GetId},
		{"Created", func(m *tarnv1.UserMessage) string { return stampText(m.GetCreatedAt()) }},
		{"Expires", func(m *tarnv1.UserMessage) string { return stampText(m.GetExpiresAt()) }},
		{"Level", (*tarnv1.UserMessage).GetMessageLevel},
		{"Resource", func(m *tarnv1.UserMessage) string { return m.GetResourceType() + " " + m.GetResourceId() }},
		{"Action", (*tarnv1.UserMessage).GetActionId},
		{"Detail", (*tarnv1.UserMessage).GetDetailId},
		{"Request", (*tarnv1.UserMessage).GetRequestId},
		{"Message", (*tarnv1.UserMessage).GetUserMessage},
	},
}

type messageList struct {
	pageFlags
	watchFlags
	Resource     string `help:"Only about this id."`
	ResourceType string `help:"SHARE, SHARE_REPLICA, SHARE_SNAPSHOT or ACCESS_RULE."`
}

func (c *messageList) Run(ctx context.Context, a *app, api *client.Client) error {
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		messages, err := collect(c.pageFlags, func(limit int32, token string) ([]*tarnv1.UserMessage, string, error) {
			p, err := api.Messages.ListMessages(ctx, &tarnv1.ListMessagesRequest{
				Limit: limit, PageToken: token, Consistency: c.consistency(), AllProjects: c.All,
				ResourceId: c.Resource, ResourceType: c.ResourceType,
			})
			return p.GetMessages(), p.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return messageView.printList(a, w, messages)
	})
}

type messageShow struct {
	Message string `arg:"" help:"Id."`
}

func (c *messageShow) Run(ctx context.Context, a *app, api *client.Client) error {
	m, err := api.Messages.GetMessage(ctx, &tarnv1.GetRequest{Id: c.Message})
	if err != nil {
		return err
	}
	return messageView.printOne(a, a.stdout, m)
}

type messageDelete struct {
	Messages []string `arg:"" help:"Ids."`
}

func (c *messageDelete) Run(ctx context.Context, a *app, api *client.Client) error {
	for _, id := range c.Messages {
		if _, err := api.Messages.DeleteMessage(ctx, &tarnv1.GetRequest{Id: id}); err != nil {
			return err
		}
		a.printResult(id, "message %s deleted", id)
	}
	return nil
}
