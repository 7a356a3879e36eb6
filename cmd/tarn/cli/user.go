package cli

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type userCmd struct {
	Create userCreate `cmd:"" help:"Create a user with a token; it is shown once."`
	List   userList   `cmd:"" help:"List users, and certificates that were revoked."`
	Revoke userRevoke `cmd:"" help:"Refuse a user, or the holder of a certificate, from now on."`
}

var userView = view[*tarnv1.User]{
	id: (*tarnv1.User).GetId,
	list: []column[*tarnv1.User]{
		{"ID", (*tarnv1.User).GetId},
		{"NAME", func(u *tarnv1.User) string { return label(u.GetName(), "(certificate)") }},
		{"ROLE", func(u *tarnv1.User) string { return label(u.GetRole(), "-") }},
		{"PROJECT", func(u *tarnv1.User) string { return label(u.GetProjectId(), "-") }},
		{"ENDS", func(u *tarnv1.User) string { return stampText(u.GetExpiresAt()) }},
		{"STATE", userState},
	},
}

func userState(u *tarnv1.User) string {
	switch {
	case u.GetRevokedAt() != nil:
		return "revoked: " + u.GetRevokedReason()
	case !time.Now().Before(u.GetExpiresAt().AsTime()):
		return "expired"
	}
	return "valid"
}

type userCreate struct {
	Name       string        `arg:"" help:"For people and for policies; unique."`
	Role       string        `help:"reader, member or operator." enum:"reader,member,operator" required:""`
	ForProject string        `help:"Readers and members: their project."`
	TTL        time.Duration `name:"ttl" help:"How long the token can be used." default:"720h"`
}

func (c *userCreate) Run(ctx context.Context, a *app, api *client.Client) error {
	answer, err := api.Operator.CreateUser(ctx, &tarnv1.CreateUserRequest{
		Name: c.Name, Role: c.Role, ProjectId: c.ForProject, Ttl: durationpb.New(c.TTL),
	})
	if err != nil {
		return err
	}
	if a.Output != "table" {
		return printMachine(a, a.stdout, answer)
	}
	fmt.Fprintln(a.stdout, answer.GetToken())
	if !a.Quiet {
		fmt.Fprintf(a.stderr, "user %s until %s; put the token into a file that only its owner can read, and its name into client.toml as token_file\n",
			answer.GetUser().GetId(), stampText(answer.GetUser().GetExpiresAt()))
	}
	return nil
}

type userList struct {
	OfProject string `help:"Only users of this project."`
}

func (c *userList) Run(ctx context.Context, a *app, api *client.Client) error {
	answer, err := api.Operator.ListUsers(ctx, &tarnv1.ListUsersRequest{ProjectId: c.OfProject})
	if err != nil {
		return err
	}
	return userView.printList(a, a.stdout, answer.GetUsers())
}

type userRevoke struct {
	User   string `arg:"" help:"Name or id of a user, or the UUID in a certificate."`
	Reason string `help:"Why; kept with the record." required:""`
}

func (c *userRevoke) Run(ctx context.Context, a *app, api *client.Client) error {
	u, err := api.Operator.RevokeUser(ctx, &tarnv1.RevokeUserRequest{User: c.User, Reason: c.Reason})
	if err != nil {
		return err
	}
	a.printResult(u.GetId(), "%s is revoked", label(u.GetName(), u.GetId()))
	return nil
}
