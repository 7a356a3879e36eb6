package cli

import (
	"context"
	"io"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type resizeArgs struct {
	waitFlags
	Share string `arg:"" help:"Name or id."`
	Size  int64  `arg:"" help:"New size in GiB."`
}

type resizeCall func(context.Context, *tarnv1.ResizeShareRequest) (*tarnv1.Share, error)

func (c *resizeArgs) resize(ctx context.Context, a *app, call resizeCall) error {
	id, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	s, err := call(ctx, &tarnv1.ResizeShareRequest{Id: id, NewSizeGib: c.Size})
	if err != nil {
		return err
	}
	if c.Wait {
		if s, err = a.awaitShare(ctx, c.waitFlags, "share "+c.Share, id); err != nil {
			return err
		}
	}
	return shareView.printOne(a, a.stdout, s)
}

type shareExtend struct{ resizeArgs }

func (c *shareExtend) Run(ctx context.Context, a *app, api *client.Client) error {
	return c.resize(ctx, a, api.Shares.ExtendShare)
}

type shareShrink struct{ resizeArgs }

func (c *shareShrink) Run(ctx context.Context, a *app, api *client.Client) error {
	return c.resize(ctx, a, api.Shares.ShrinkShare)
}

type shareSet struct {
	Share       string   `arg:"" help:"Name or id."`
	Name        *string  `help:"New name."`
	Description *string  `help:"New description."`
	Public      *bool    `negatable:"" help:"Readable by every project."`
	Property    []string `sep:"none" placeholder:"KEY=VALUE" help:"Metadata; repeatable."`
	Replace     bool     `help:"--property replaces all metadata instead of adding."`
}

func (c *shareSet) Run(ctx context.Context, a *app, api *client.Client) error {
	metadata, err := pairs("--property", c.Property)
	if err != nil {
		return err
	}
	change := c.Name != nil || c.Description != nil || c.Public != nil
	if !change && len(metadata) == 0 && !c.Replace {
		return usage("nothing to set").next("give a flag; see tarn share set --help")
	}
	id, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	var s *tarnv1.Share
	if change {
		s, err = api.Shares.UpdateShare(ctx, &tarnv1.UpdateShareRequest{
			Id: id, Name: c.Name, Description: c.Description, IsPublic: c.Public,
		})
		if err != nil {
			return err
		}
	}
	if len(metadata) > 0 || c.Replace {
		s, err = api.Shares.SetShareMetadata(ctx, &tarnv1.SetMetadataRequest{Id: id, Metadata: metadata, Replace: c.Replace})
		if err != nil {
			return err
		}
	}
	return shareView.printOne(a, a.stdout, s)
}

type shareUnset struct {
	Share string   `arg:"" help:"Name or id."`
	Keys  []string `arg:"" help:"Metadata keys to remove."`
}

func (c *shareUnset) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	s, err := api.Shares.UnsetShareMetadata(ctx, &tarnv1.UnsetMetadataRequest{Id: id, Keys: c.Keys})
	if err != nil {
		return err
	}
	return shareView.printOne(a, a.stdout, s)
}

type shareDelete struct {
	waitFlags
	Shares []string `arg:"" help:"Names or ids."`
	Force  bool     `help:"From any status, without waiting for hosts; operators only."`
}

func (c *shareDelete) Run(ctx context.Context, a *app, api *client.Client) error {
	for _, ref := range c.Shares {
		id, err := a.shareID(ctx, ref)
		if err != nil {
			return err
		}
		if _, err := api.Shares.DeleteShare(ctx, &tarnv1.DeleteShareRequest{Id: id, Force: c.Force}); err != nil {
			return err
		}
		err = a.awaitGone(ctx, c.waitFlags, "share "+ref, func(ctx context.Context) (tarnv1.Status, error) {
			s, err := api.Shares.GetShare(ctx, &tarnv1.GetRequest{Id: id})
			return s.GetStatus(), err
		})
		if err != nil {
			return err
		}
		a.printResult(id, "share %s %s", ref, deletionText(c.Wait))
	}
	return nil
}

func deletionText(waited bool) string {
	if waited {
		return "deleted"
	}
	return "is being deleted"
}

// awaitGone waits, if asked to, until look answers not found.
func (a *app) awaitGone(ctx context.Context, flags waitFlags, what string, look func(context.Context) (tarnv1.Status, error)) error {
	if !flags.Wait {
		return nil
	}
	return a.await(ctx, flags, what, func(ctx context.Context) (progress, error) {
		status, err := look(ctx)
		if err != nil {
			return gone(err)
		}
		if status == tarnv1.Status_STATUS_ERROR_DELETING {
			return statusProgress(status)
		}
		return progress{text: enumText(status), fraction: -1}, nil
	})
}

type shareResetState struct {
	Share  string `arg:"" help:"Name or id."`
	Status string `arg:"" help:"New status, for example available or error."`
}

func (c *shareResetState) Run(ctx context.Context, a *app, api *client.Client) error {
	status, err := parseEnum[tarnv1.Status]("status", c.Status)
	if err != nil {
		return err
	}
	id, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	s, err := api.Shares.ResetShareStatus(ctx, &tarnv1.ResetStatusRequest{Id: id, Status: status})
	if err != nil {
		return err
	}
	return shareView.printOne(a, a.stdout, s)
}

var locationView = view[*tarnv1.ExportLocation]{
	id: (*tarnv1.ExportLocation).GetId,
	list: []column[*tarnv1.ExportLocation]{
		{"ID", (*tarnv1.ExportLocation).GetId},
		{"PATH", (*tarnv1.ExportLocation).GetPath},
		{"PREFERRED", func(l *tarnv1.ExportLocation) string { return boolText(l.GetPreferred()) }},
		{"ADMIN ONLY", func(l *tarnv1.ExportLocation) string { return boolText(l.GetIsAdminOnly()) }},
		{"REPLICA", (*tarnv1.ExportLocation).GetReplicaId},
		{"STATE", func(l *tarnv1.ExportLocation) string { return enumText(l.GetReplicaState()) }},
		{"ZONE", (*tarnv1.ExportLocation).GetAvailabilityZone},
	},
}

type shareExportLocation struct {
	List shareExportLocationList `cmd:"" help:"List a share's export locations."`
}

type shareExportLocationList struct {
	watchFlags
	Share string `arg:"" help:"Name or id."`
}

func (c *shareExportLocationList) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		answer, err := api.Shares.ListShareExportLocations(ctx, &tarnv1.GetRequest{Id: id})
		if err != nil {
			return err
		}
		return locationView.printList(a, w, answer.GetExportLocations())
	})
}
