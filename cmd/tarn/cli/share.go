package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type shareCmd struct {
	Create         shareCreate         `cmd:"" help:"Create a share, from a snapshot too."`
	List           shareList           `cmd:"" help:"List shares."`
	Show           shareShow           `cmd:"" help:"Show one share."`
	Extend         shareExtend         `cmd:"" help:"Make a share larger."`
	Shrink         shareShrink         `cmd:"" help:"Make a share smaller, where its data fit."`
	Set            shareSet            `cmd:"" help:"Change name, description, visibility or metadata."`
	Unset          shareUnset          `cmd:"" help:"Remove metadata."`
	Delete         shareDelete         `cmd:"" help:"Delete shares."`
	Retention      shareRetention      `cmd:"" help:"Which replication snapshots stay on each replica, and why."`
	Manage         shareManage         `cmd:"" help:"Take over a dataset that is there, with its snapshots; operators only."`
	Unmanage       shareUnmanage       `cmd:"" help:"Give a share's dataset back; operators only."`
	ResetState     shareResetState     `cmd:"" help:"Set the status by hand; operators only."`
	ExportLocation shareExportLocation `cmd:"" help:"Where clients mount a share."`
}

var shareView = view[*tarnv1.Share]{
	id: (*tarnv1.Share).GetId,
	list: []column[*tarnv1.Share]{
		{"ID", (*tarnv1.Share).GetId},
		{"NAME", (*tarnv1.Share).GetName},
		{"SIZE", func(s *tarnv1.Share) string { return fmt.Sprintf("%d GiB", s.GetSizeGib()) }},
		{"STATUS", func(s *tarnv1.Share) string { return enumText(s.GetStatus()) }},
		{"TYPE", (*tarnv1.Share).GetShareTypeName},
		{"REPLICATION", func(s *tarnv1.Share) string { return enumText(s.GetReplicationType()) }},
		{"ZONE", (*tarnv1.Share).GetAvailabilityZone},
		{"HOST", (*tarnv1.Share).GetHost},
	},
	detail: []column[*tarnv1.Share]{
		{"ID", (*tarnv1.Share).GetId},
		{"Name", (*tarnv1.Share).GetName},
		{"Description", (*tarnv1.Share).GetDescription},
		{"Project", (*tarnv1.Share).GetProjectId},
		{"Status", func(s *tarnv1.Share) string { return enumText(s.GetStatus()) }},
		{"Size", shareSizeText},
		{"Protocol", (*tarnv1.Share).GetShareProto},
		{"Share type", (*tarnv1.Share).GetShareTypeName},
		{"Replication", func(s *tarnv1.Share) string { return enumText(s.GetReplicationType()) }},
		{"RPO", func(s *tarnv1.Share) string { return durationText(s.GetRpo()) }},
		{"Zone", (*tarnv1.Share).GetAvailabilityZone},
		{"Host", (*tarnv1.Share).GetHost},
		{"Has replicas", func(s *tarnv1.Share) string { return boolText(s.GetHasReplicas()) }},
		{"Access rules", func(s *tarnv1.Share) string { return enumText(s.GetAccessRulesStatus()) }},
		{"Export locations", func(s *tarnv1.Share) string { return locationsText(s.GetExportLocations()) }},
		{"From snapshot", (*tarnv1.Share).GetSnapshotId},
		{"Metadata", func(s *tarnv1.Share) string { return mapText(s.GetMetadata()) }},
		{"Public", func(s *tarnv1.Share) string { return boolText(s.GetIsPublic()) }},
		{"May write", writerText},
		{"Epoch", func(s *tarnv1.Share) string { return fmt.Sprint(s.GetFencing().GetEpoch()) }},
		{"By proof", proofText},
		{"Promotion", promotionText},
		{"Created", func(s *tarnv1.Share) string { return stampText(s.GetCreatedAt()) }},
	},
}

func shareSizeText(s *tarnv1.Share) string {
	if s.GetPendingSizeGib() != 0 {
		return fmt.Sprintf("%d GiB, becoming %d GiB", s.GetSizeGib(), s.GetPendingSizeGib())
	}
	return fmt.Sprintf("%d GiB", s.GetSizeGib())
}

func locationsText(locations []*tarnv1.ExportLocation) string {
	paths := make([]string, len(locations))
	for i, l := range locations {
		paths[i] = l.GetPath()
	}
	return strings.Join(paths, "\n")
}

type shareCreate struct {
	waitFlags
	Name             string   `arg:"" optional:"" help:"Name; need not be unique."`
	Size             int64    `help:"Size in GiB; with --snapshot at least the snapshot's." required:"" placeholder:"GIB"`
	Type             string   `help:"Share type; the default type if left out." placeholder:"TYPE"`
	Protocol         string   `help:"Share protocol." default:"NFS"`
	Description      string   `help:"Free text."`
	AvailabilityZone string   `name:"availability-zone" aliases:"zone" help:"Where the first replica goes." placeholder:"ZONE"`
	Snapshot         string   `help:"Start from this snapshot."`
	Property         []string `sep:"none" placeholder:"KEY=VALUE" help:"Metadata; repeatable."`
	Public           bool     `help:"Readable by every project."`
	OnlyHost         string   `help:"Exactly this host@backend#pool; operators only."`
	ID               string   `name:"id" help:"Idempotency key, a UUID; minted if left out."`
}

func (c *shareCreate) request(ctx context.Context, a *app) (*tarnv1.CreateShareRequest, error) {
	metadata, err := pairs("--property", c.Property)
	if err != nil {
		return nil, err
	}
	req := &tarnv1.CreateShareRequest{
		Id: c.ID, Name: c.Name, Description: c.Description, SizeGib: c.Size, ShareProto: c.Protocol, ShareType: c.Type,
		AvailabilityZone: c.AvailabilityZone, Metadata: metadata, IsPublic: c.Public, OnlyHost: c.OnlyHost,
	}
	if c.Snapshot != "" {
		req.SnapshotId, err = a.snapshotID(ctx, c.Snapshot)
	}
	return req, err
}

func (c *shareCreate) Run(ctx context.Context, a *app, api *client.Client) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	s, err := api.Shares.CreateShare(ctx, req)
	if err != nil {
		return err
	}
	if c.Wait {
		if s, err = a.awaitShare(ctx, c.waitFlags, "share "+label(s.GetName(), s.GetId()), s.GetId()); err != nil {
			return err
		}
	}
	return shareView.printOne(a, a.stdout, s)
}

func label(name, id string) string {
	if name != "" {
		return name
	}
	return id
}

// awaitShare waits for status available.
func (a *app) awaitShare(ctx context.Context, flags waitFlags, what, id string) (share *tarnv1.Share, err error) {
	err = a.await(ctx, flags, what, func(ctx context.Context) (progress, error) {
		share, err = a.api.Shares.GetShare(ctx, &tarnv1.GetRequest{Id: id})
		if err != nil {
			return progress{}, err
		}
		return statusProgress(share.GetStatus())
	})
	return share, err
}

type shareList struct {
	pageFlags
	watchFlags
	Name             string   `help:"Exact name."`
	NameContains     string   `help:"Part of the name."`
	Status           string   `help:"Status, as printed."`
	Type             string   `help:"Share type."`
	Snapshot         string   `help:"Created from this snapshot."`
	AvailabilityZone string   `name:"availability-zone" aliases:"zone" help:"Zone of the active replica."`
	Host             string   `help:"Host; operators only."`
	Property         []string `sep:"none" placeholder:"KEY=VALUE" help:"Metadata that must match; repeatable."`
	Sort             string   `help:"created_at, name or size_gib; - before it sorts down." placeholder:"KEY"`
}

func (c *shareList) request(ctx context.Context, a *app) (*tarnv1.ListSharesRequest, error) {
	metadata, err := pairs("--property", c.Property)
	if err != nil {
		return nil, err
	}
	status, err := parseEnum[tarnv1.Status]("--status", c.Status)
	if err != nil {
		return nil, err
	}
	req := &tarnv1.ListSharesRequest{
		Consistency: c.consistency(), AllProjects: c.All, Name: c.Name, NameContains: c.NameContains, Status: status,
		AvailabilityZone: c.AvailabilityZone, Host: c.Host, Metadata: metadata, Sort: c.Sort,
	}
	if c.Type != "" {
		if req.ShareTypeId, err = a.shareTypeID(ctx, c.Type); err != nil {
			return nil, err
		}
	}
	if c.Snapshot != "" {
		req.SnapshotId, err = a.snapshotID(ctx, c.Snapshot)
	}
	return req, err
}

func (c *shareList) Run(ctx context.Context, a *app, api *client.Client) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		shares, err := collect(c.pageFlags, func(limit int32, token string) ([]*tarnv1.Share, string, error) {
			req.Limit, req.PageToken = limit, token
			p, err := api.Shares.ListShares(ctx, req)
			return p.GetShares(), p.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return shareView.printList(a, w, shares)
	})
}

type shareShow struct {
	watchFlags
	Share string `arg:"" help:"Name or id."`
}

func (c *shareShow) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		s, err := api.Shares.GetShare(ctx, &tarnv1.GetRequest{Id: id})
		if err != nil {
			return err
		}
		return shareView.printOne(a, w, s)
	})
}
