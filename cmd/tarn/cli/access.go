package cli

import (
	"context"
	"io"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type accessCmd struct {
	Allow accessAllow `cmd:"" help:"Let an address or prefix reach a share."`
	Deny  accessDeny  `cmd:"" help:"Take a rule back."`
	List  accessList  `cmd:"" help:"List a share's rules."`
	Set   accessSet   `cmd:"" help:"Change the level of a rule."`
}

var accessView = view[*tarnv1.AccessRule]{
	id: (*tarnv1.AccessRule).GetId,
	list: []column[*tarnv1.AccessRule]{
		{"ID", (*tarnv1.AccessRule).GetId},
		{"TYPE", (*tarnv1.AccessRule).GetAccessType},
		{"TO", (*tarnv1.AccessRule).GetAccessTo},
		{"LEVEL", func(r *tarnv1.AccessRule) string { return enumText(r.GetAccessLevel()) }},
		{"STATE", func(r *tarnv1.AccessRule) string { return enumText(r.GetState()) }},
		{"CREATED", func(r *tarnv1.AccessRule) string { return stampText(r.GetCreatedAt()) }},
	},
}

type accessAllow struct {
	waitFlags
	Share    string   `arg:"" help:"Name or id."`
	To       string   `arg:"" name:"address" help:"Address or prefix, IPv4 or IPv6."`
	Level    string   `help:"rw or ro." default:"rw"`
	Type     string   `help:"Kind of rule." default:"ip"`
	Property []string `sep:"none" placeholder:"KEY=VALUE" help:"Metadata; repeatable."`
	ID       string   `name:"id" help:"Idempotency key, a UUID; minted if left out."`
}

func (c *accessAllow) request(ctx context.Context, a *app) (*tarnv1.AllowAccessRequest, error) {
	metadata, err := pairs("--property", c.Property)
	if err != nil {
		return nil, err
	}
	level, err := parseEnum[tarnv1.AccessLevel]("--level", c.Level)
	if err != nil {
		return nil, err
	}
	shareID, err := a.shareID(ctx, c.Share)
	return &tarnv1.AllowAccessRequest{
		Id: c.ID, ShareId: shareID, AccessType: c.Type, AccessTo: c.To, AccessLevel: level, Metadata: metadata,
	}, err
}

func (c *accessAllow) Run(ctx context.Context, a *app, api *client.Client) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	rule, err := api.AccessRules.AllowAccess(ctx, req)
	if err != nil {
		return err
	}
	if c.Wait {
		if rule, err = a.awaitRule(ctx, c.waitFlags, rule); err != nil {
			return err
		}
	}
	return accessView.printOne(a, a.stdout, rule)
}

func (a *app) awaitRule(ctx context.Context, flags waitFlags, rule *tarnv1.AccessRule) (*tarnv1.AccessRule, error) {
	err := a.await(ctx, flags, "access "+rule.GetAccessTo(), func(ctx context.Context) (progress, error) {
		var err error
		if rule, err = a.api.AccessRules.GetAccessRule(ctx, &tarnv1.GetRequest{Id: rule.GetId()}); err != nil {
			return progress{}, err
		}
		state := rule.GetState()
		if state == tarnv1.AccessRuleState_ACCESS_RULE_STATE_ERROR {
			return progress{}, fail(exitFailure, "rule could not be applied").next("`tarn message list` says where and why")
		}
		return progress{done: state == tarnv1.AccessRuleState_ACCESS_RULE_STATE_ACTIVE, text: enumText(state), fraction: -1}, nil
	})
	return rule, err
}

// ruleID takes a rule's id, or the address of a rule of the share.
func (a *app) ruleID(ctx context.Context, share, ref string) (string, error) {
	if id, ok := asID(ref); ok {
		return id, nil
	}
	shareID, err := a.shareID(ctx, share)
	if err != nil {
		return "", err
	}
	answer, err := a.api.AccessRules.ListAccessRules(ctx, &tarnv1.ListAccessRulesRequest{ShareId: shareID})
	if err != nil {
		return "", err
	}
	var found []named
	for _, r := range answer.GetAccessRules() {
		if r.GetAccessTo() == ref {
			found = append(found, named{r.GetId(), enumText(r.GetAccessLevel())})
		}
	}
	return pick("access", ref, found)
}

type accessDeny struct {
	waitFlags
	Share string `arg:"" help:"Name or id."`
	Rule  string `arg:"" help:"Address or id of the rule."`
}

func (c *accessDeny) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.ruleID(ctx, c.Share, c.Rule)
	if err != nil {
		return err
	}
	if _, err := api.AccessRules.DenyAccess(ctx, &tarnv1.GetRequest{Id: id}); err != nil {
		return err
	}
	err = a.awaitGone(ctx, c.waitFlags, "access "+c.Rule, func(ctx context.Context) (tarnv1.Status, error) {
		_, err := api.AccessRules.GetAccessRule(ctx, &tarnv1.GetRequest{Id: id})
		return tarnv1.Status_STATUS_DELETING, err
	})
	if err != nil {
		return err
	}
	a.printResult(id, "access of %s to %s denied", c.Rule, c.Share)
	return nil
}

type accessList struct {
	watchFlags
	Share string `arg:"" help:"Name or id."`
}

func (c *accessList) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		answer, err := api.AccessRules.ListAccessRules(ctx, &tarnv1.ListAccessRulesRequest{ShareId: id})
		if err != nil {
			return err
		}
		return accessView.printList(a, w, answer.GetAccessRules())
	})
}

type accessSet struct {
	Share string `arg:"" help:"Name or id."`
	Rule  string `arg:"" help:"Address or id of the rule."`
	Level string `required:"" help:"rw or ro."`
}

func (c *accessSet) Run(ctx context.Context, a *app, api *client.Client) error {
	level, err := parseEnum[tarnv1.AccessLevel]("--level", c.Level)
	if err != nil {
		return err
	}
	id, err := a.ruleID(ctx, c.Share, c.Rule)
	if err != nil {
		return err
	}
	rule, err := api.AccessRules.UpdateAccessRule(ctx, &tarnv1.UpdateAccessRuleRequest{Id: id, AccessLevel: level})
	if err != nil {
		return err
	}
	return accessView.printOne(a, a.stdout, rule)
}
