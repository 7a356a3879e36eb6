package cli

import (
	"context"
	"io"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type shareTypeCmd struct {
	Create shareTypeCreate `cmd:"" help:"Create a share type; operators only."`
	List   shareTypeList   `cmd:"" help:"List share types."`
	Show   shareTypeShow   `cmd:"" help:"Show one share type."`
	Set    shareTypeSet    `cmd:"" help:"Set extra specs and properties; operators only."`
	Unset  shareTypeUnset  `cmd:"" help:"Remove extra specs; operators only."`
	Delete shareTypeDelete `cmd:"" help:"Delete a share type that no share uses; operators only."`
	Access typeAccessCmd   `cmd:"" help:"Projects that may use a type that is not public; operators only."`
}

var shareTypeView = view[*tarnv1.ShareType]{
	id: (*tarnv1.ShareType).GetId,
	list: []column[*tarnv1.ShareType]{
		{"ID", (*tarnv1.ShareType).GetId},
		{"NAME", (*tarnv1.ShareType).GetName},
		{"REPLICATION", func(t *tarnv1.ShareType) string { return t.GetExtraSpecs()["replication_type"] }},
		{"RPO", func(t *tarnv1.ShareType) string { return t.GetExtraSpecs()["tarn:rpo"] }},
		{"PUBLIC", func(t *tarnv1.ShareType) string { return boolText(t.GetIsPublic()) }},
		{"DEFAULT", func(t *tarnv1.ShareType) string { return boolText(t.GetIsDefault()) }},
	},
	detail: []column[*tarnv1.ShareType]{
		{"ID", (*tarnv1.ShareType).GetId},
		{"Name", (*tarnv1.ShareType).GetName},
		{"Description", (*tarnv1.ShareType).GetDescription},
		{"Extra specs", func(t *tarnv1.ShareType) string { return mapText(t.GetExtraSpecs()) }},
		{"Public", func(t *tarnv1.ShareType) string { return boolText(t.GetIsPublic()) }},
		{"Default", func(t *tarnv1.ShareType) string { return boolText(t.GetIsDefault()) }},
		{"Created", func(t *tarnv1.ShareType) string { return stampText(t.GetCreatedAt()) }},
	},
}

type shareTypeCreate struct {
	Name            string   `arg:"" help:"Unique name."`
	Description     string   `help:"Free text."`
	ReplicationType string   `help:"Short for --spec replication_type=VALUE: readable, dr or writable."`
	Rpo             string   `help:"Short for --spec tarn:rpo=DURATION."`
	Snapshots       bool     `negatable:"" default:"true" help:"Specs snapshot_support and create_share_from_snapshot_support."`
	Spec            []string `short:"e" aliases:"extra-spec,extra-specs" sep:"none" placeholder:"KEY=VALUE" help:"Extra spec; repeatable. docs/share-types.md lists them."`
	Dhss            bool     `name:"driver-handles-share-servers" help:"Extra spec driver_handles_share_servers; default false."`
	Private         bool     `help:"Only projects given access may use it."`
	Default         bool     `help:"Make it the type of shares created without one."`
}

func (c *shareTypeCreate) specs() (map[string]string, error) {
	specs, err := pairs("--spec", c.Spec)
	if err != nil {
		return nil, err
	}
	short := map[string]string{
		"driver_handles_share_servers": boolText(c.Dhss), "snapshot_support": boolText(c.Snapshots),
		"create_share_from_snapshot_support": boolText(c.Snapshots), "replication_type": c.ReplicationType, "tarn:rpo": c.Rpo,
	}
	// What --spec says outright wins over the short forms and their defaults.
	for key, value := range short {
		if _, given := specs[key]; !given && value != "" {
			specs[key] = value
		}
	}
	return specs, nil
}

func (c *shareTypeCreate) Run(ctx context.Context, a *app, api *client.Client) error {
	specs, err := c.specs()
	if err != nil {
		return err
	}
	public := !c.Private
	t, err := api.ShareTypes.CreateShareType(ctx, &tarnv1.CreateShareTypeRequest{
		Name: c.Name, Description: c.Description, ExtraSpecs: specs, IsPublic: &public,
	})
	if err != nil {
		return err
	}
	if c.Default {
		t, err = api.ShareTypes.UpdateShareType(ctx, &tarnv1.UpdateShareTypeRequest{Id: t.GetId(), IsDefault: &c.Default})
		if err != nil {
			return err
		}
	}
	return shareTypeView.printOne(a, a.stdout, t)
}

type shareTypeList struct {
	pageFlags
	watchFlags
	Name string `help:"Exact name."`
}

func (c *shareTypeList) Run(ctx context.Context, a *app, api *client.Client) error {
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		types, err := collect(c.pageFlags, func(limit int32, token string) ([]*tarnv1.ShareType, string, error) {
			p, err := api.ShareTypes.ListShareTypes(ctx, &tarnv1.ListShareTypesRequest{
				Limit: limit, PageToken: token, Consistency: c.consistency(), Name: c.Name,
			})
			return p.GetShareTypes(), p.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return shareTypeView.printList(a, w, types)
	})
}

func (f pageFlags) consistency() tarnv1.Consistency {
	if f.Stale {
		return tarnv1.Consistency_CONSISTENCY_STALE
	}
	return tarnv1.Consistency_CONSISTENCY_LINEARIZABLE
}

type shareTypeShow struct {
	watchFlags
	Type string `arg:"" help:"Name or id."`
}

func (c *shareTypeShow) Run(ctx context.Context, a *app, api *client.Client) error {
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		t, err := api.ShareTypes.GetShareType(ctx, &tarnv1.GetRequest{Id: c.Type})
		if err != nil {
			return err
		}
		return shareTypeView.printOne(a, w, t)
	})
}

type shareTypeSet struct {
	Type        string   `arg:"" help:"Name or id."`
	ExtraSpecs  []string `arg:"" optional:"" name:"key=value" help:"Extra specs."`
	Name        *string  `help:"New name."`
	Description *string  `help:"New description."`
	Public      *bool    `negatable:"" help:"Whether every project may use it."`
	Default     *bool    `negatable:"" help:"Whether shares created without a type get it."`
}

func (c *shareTypeSet) Run(ctx context.Context, a *app, api *client.Client) error {
	specs, err := pairs("extra spec", c.ExtraSpecs)
	if err != nil {
		return err
	}
	change := c.Name != nil || c.Description != nil || c.Public != nil || c.Default != nil
	if len(specs) == 0 && !change {
		return usage("nothing to set").next("give key=value or a flag; see tarn share-type set --help")
	}
	id, err := a.shareTypeID(ctx, c.Type)
	if err != nil {
		return err
	}
	var t *tarnv1.ShareType
	if len(specs) > 0 {
		if t, err = api.ShareTypes.SetExtraSpecs(ctx, &tarnv1.SetExtraSpecsRequest{Id: id, ExtraSpecs: specs}); err != nil {
			return err
		}
	}
	if change {
		t, err = api.ShareTypes.UpdateShareType(ctx, &tarnv1.UpdateShareTypeRequest{
			Id: id, Name: c.Name, Description: c.Description, IsPublic: c.Public, IsDefault: c.Default,
		})
		if err != nil {
			return err
		}
	}
	return shareTypeView.printOne(a, a.stdout, t)
}

type shareTypeUnset struct {
	Type string   `arg:"" help:"Name or id."`
	Keys []string `arg:"" help:"Extra specs to remove."`
}

func (c *shareTypeUnset) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.shareTypeID(ctx, c.Type)
	if err != nil {
		return err
	}
	t, err := api.ShareTypes.UnsetExtraSpecs(ctx, &tarnv1.UnsetExtraSpecsRequest{Id: id, Keys: c.Keys})
	if err != nil {
		return err
	}
	return shareTypeView.printOne(a, a.stdout, t)
}

type shareTypeDelete struct {
	Types []string `arg:"" help:"Names or ids."`
}

func (c *shareTypeDelete) Run(ctx context.Context, a *app, api *client.Client) error {
	for _, ref := range c.Types {
		id, err := a.shareTypeID(ctx, ref)
		if err != nil {
			return err
		}
		if _, err := api.ShareTypes.DeleteShareType(ctx, &tarnv1.GetRequest{Id: id}); err != nil {
			return err
		}
		a.printResult(id, "share type %s deleted", ref)
	}
	return nil
}

type typeAccessCmd struct {
	Add    typeAccessAdd    `cmd:"" help:"Let a project use the type."`
	Remove typeAccessRemove `cmd:"" help:"Stop a project from using the type."`
}

type typeAccessArgs struct {
	Type      string `arg:"" help:"Name or id."`
	ProjectID string `arg:"" name:"project" help:"Project id."`
}

func (c *typeAccessArgs) request(ctx context.Context, a *app) (*tarnv1.ProjectAccessRequest, error) {
	id, err := a.shareTypeID(ctx, c.Type)
	return &tarnv1.ProjectAccessRequest{Id: id, ProjectId: c.ProjectID}, err
}

type typeAccessAdd struct{ typeAccessArgs }

func (c *typeAccessAdd) Run(ctx context.Context, a *app, api *client.Client) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	t, err := api.ShareTypes.AddProjectAccess(ctx, req)
	if err != nil {
		return err
	}
	return shareTypeView.printOne(a, a.stdout, t)
}

type typeAccessRemove struct{ typeAccessArgs }

func (c *typeAccessRemove) Run(ctx context.Context, a *app, api *client.Client) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	t, err := api.ShareTypes.RemoveProjectAccess(ctx, req)
	if err != nil {
		return err
	}
	return shareTypeView.printOne(a, a.stdout, t)
}
