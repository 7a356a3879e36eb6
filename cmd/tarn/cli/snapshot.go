package cli

import (
	"context"
	"fmt"
	"io"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type snapshotCmd struct {
	Create     snapshotCreate     `cmd:"" help:"Take a snapshot; it travels to every replica."`
	List       snapshotList       `cmd:"" help:"List snapshots."`
	Show       snapshotShow       `cmd:"" help:"Show one snapshot."`
	Set        snapshotSet        `cmd:"" help:"Change name or description."`
	Delete     snapshotDelete     `cmd:"" help:"Delete snapshots."`
	Manage     snapshotManage     `cmd:"" help:"Take over a snapshot that the share's dataset has; operators only."`
	Unmanage   snapshotUnmanage   `cmd:"" help:"Give a snapshot its former name back; operators only."`
	ResetState snapshotResetState `cmd:"" help:"Set the status by hand; operators only."`
	Instance   instanceCmd        `cmd:"" help:"A snapshot on one replica."`
}

var snapshotView = view[*tarnv1.Snapshot]{
	id: (*tarnv1.Snapshot).GetId,
	list: []column[*tarnv1.Snapshot]{
		{"ID", (*tarnv1.Snapshot).GetId},
		{"NAME", (*tarnv1.Snapshot).GetName},
		{"SHARE", (*tarnv1.Snapshot).GetShareId},
		{"STATUS", func(s *tarnv1.Snapshot) string { return enumText(s.GetStatus()) }},
		{"SIZE", func(s *tarnv1.Snapshot) string { return fmt.Sprintf("%d GiB", s.GetSizeGib()) }},
		{"TAKEN", func(s *tarnv1.Snapshot) string { return stampText(s.GetTakenAt()) }},
	},
	detail: []column[*tarnv1.Snapshot]{
		{"ID", (*tarnv1.Snapshot).GetId},
		{"Name", (*tarnv1.Snapshot).GetName},
		{"Description", (*tarnv1.Snapshot).GetDescription},
		{"Share", (*tarnv1.Snapshot).GetShareId},
		{"Status", func(s *tarnv1.Snapshot) string { return enumText(s.GetStatus()) }},
		{"Size", func(s *tarnv1.Snapshot) string { return fmt.Sprintf("%d GiB", s.GetSizeGib()) }},
		{"GUID", func(s *tarnv1.Snapshot) string { return guidText(s.GetGuid()) }},
		{"Managed from", (*tarnv1.Snapshot).GetManagedFrom},
		{"Taken", func(s *tarnv1.Snapshot) string { return stampText(s.GetTakenAt()) }},
		{"Metadata", func(s *tarnv1.Snapshot) string { return mapText(s.GetMetadata()) }},
		{"Created", func(s *tarnv1.Snapshot) string { return stampText(s.GetCreatedAt()) }},
	},
}

type snapshotCreate struct {
	waitFlags
	Share       string   `arg:"" help:"Name or id."`
	Name        string   `arg:"" optional:"" help:"Name of the snapshot."`
	Description string   `help:"Free text."`
	Property    []string `sep:"none" placeholder:"KEY=VALUE" help:"Metadata; repeatable."`
	ID          string   `name:"id" help:"Idempotency key, a UUID; minted if left out."`
}

func (c *snapshotCreate) Run(ctx context.Context, a *app, api *client.Client) error {
	metadata, err := pairs("--property", c.Property)
	if err != nil {
		return err
	}
	shareID, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	s, err := api.Snapshots.CreateSnapshot(ctx, &tarnv1.CreateSnapshotRequest{
		Id: c.ID, ShareId: shareID, Name: c.Name, Description: c.Description, Metadata: metadata,
	})
	if err != nil {
		return err
	}
	if c.Wait {
		if s, err = a.awaitSnapshot(ctx, c.waitFlags, s); err != nil {
			return err
		}
	}
	return snapshotView.printOne(a, a.stdout, s)
}

func (a *app) awaitSnapshot(ctx context.Context, flags waitFlags, s *tarnv1.Snapshot) (*tarnv1.Snapshot, error) {
	err := a.await(ctx, flags, "snapshot "+label(s.GetName(), s.GetId()), func(ctx context.Context) (progress, error) {
		var err error
		if s, err = a.api.Snapshots.GetSnapshot(ctx, &tarnv1.GetRequest{Id: s.GetId()}); err != nil {
			return progress{}, err
		}
		return statusProgress(s.GetStatus())
	})
	return s, err
}

type snapshotList struct {
	pageFlags
	watchFlags
	Share  string `help:"Only of this share."`
	Name   string `help:"Exact name."`
	Status string `help:"Status, as printed."`
}

func (c *snapshotList) request(ctx context.Context, a *app) (*tarnv1.ListSnapshotsRequest, error) {
	status, err := parseEnum[tarnv1.Status]("--status", c.Status)
	if err != nil {
		return nil, err
	}
	req := &tarnv1.ListSnapshotsRequest{Consistency: c.consistency(), AllProjects: c.All, Name: c.Name, Status: status}
	if c.Share != "" {
		req.ShareId, err = a.shareID(ctx, c.Share)
	}
	return req, err
}

func (c *snapshotList) Run(ctx context.Context, a *app, api *client.Client) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		snapshots, err := collect(c.pageFlags, func(limit int32, token string) ([]*tarnv1.Snapshot, string, error) {
			req.Limit, req.PageToken = limit, token
			p, err := api.Snapshots.ListSnapshots(ctx, req)
			return p.GetSnapshots(), p.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return snapshotView.printList(a, w, snapshots)
	})
}

type snapshotShow struct {
	watchFlags
	Snapshot string `arg:"" help:"Name or id."`
}

func (c *snapshotShow) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.snapshotID(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		s, err := api.Snapshots.GetSnapshot(ctx, &tarnv1.GetRequest{Id: id})
		if err != nil {
			return err
		}
		return snapshotView.printOne(a, w, s)
	})
}

type snapshotSet struct {
	Snapshot    string  `arg:"" help:"Name or id."`
	Name        *string `help:"New name."`
	Description *string `help:"New description."`
}

func (c *snapshotSet) Run(ctx context.Context, a *app, api *client.Client) error {
	if c.Name == nil && c.Description == nil {
		return usage("nothing to set").next("give --name or --description")
	}
	id, err := a.snapshotID(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	s, err := api.Snapshots.UpdateSnapshot(ctx, &tarnv1.UpdateSnapshotRequest{Id: id, Name: c.Name, Description: c.Description})
	if err != nil {
		return err
	}
	return snapshotView.printOne(a, a.stdout, s)
}

type snapshotDelete struct {
	waitFlags
	Snapshots []string `arg:"" help:"Names or ids."`
	Force     bool     `help:"Do not wait for hosts; operators only."`
}

func (c *snapshotDelete) Run(ctx context.Context, a *app, api *client.Client) error {
	for _, ref := range c.Snapshots {
		id, err := a.snapshotID(ctx, ref)
		if err != nil {
			return err
		}
		if _, err := api.Snapshots.DeleteSnapshot(ctx, &tarnv1.DeleteSnapshotRequest{Id: id, Force: c.Force}); err != nil {
			return err
		}
		err = a.awaitGone(ctx, c.waitFlags, "snapshot "+ref, func(ctx context.Context) (tarnv1.Status, error) {
			s, err := api.Snapshots.GetSnapshot(ctx, &tarnv1.GetRequest{Id: id})
			return s.GetStatus(), err
		})
		if err != nil {
			return err
		}
		a.printResult(id, "snapshot %s %s", ref, deletionText(c.Wait))
	}
	return nil
}

type snapshotResetState struct {
	Snapshot string `arg:"" help:"Name or id."`
	Status   string `arg:"" help:"New status, for example available or error."`
}

func (c *snapshotResetState) Run(ctx context.Context, a *app, api *client.Client) error {
	status, err := parseEnum[tarnv1.Status]("status", c.Status)
	if err != nil {
		return err
	}
	id, err := a.snapshotID(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	s, err := api.Snapshots.ResetSnapshotStatus(ctx, &tarnv1.ResetStatusRequest{Id: id, Status: status})
	if err != nil {
		return err
	}
	return snapshotView.printOne(a, a.stdout, s)
}

var instanceView = view[*tarnv1.SnapshotInstance]{
	id: (*tarnv1.SnapshotInstance).GetId,
	list: []column[*tarnv1.SnapshotInstance]{
		{"ID", (*tarnv1.SnapshotInstance).GetId},
		{"SNAPSHOT", (*tarnv1.SnapshotInstance).GetSnapshotId},
		{"REPLICA", (*tarnv1.SnapshotInstance).GetReplicaId},
		{"STATUS", func(i *tarnv1.SnapshotInstance) string { return enumText(i.GetStatus()) }},
		{"PROGRESS", (*tarnv1.SnapshotInstance).GetProgress},
		{"LOCATION", (*tarnv1.SnapshotInstance).GetProviderLocation},
	},
}

type instanceCmd struct {
	List instanceList `cmd:"" help:"List snapshot instances."`
	Show instanceShow `cmd:"" help:"Show one snapshot instance."`
}

type instanceList struct {
	pageFlags
	watchFlags
	Snapshot string `help:"Only of this snapshot."`
	Share    string `help:"Only of this share."`
}

func (c *instanceList) request(ctx context.Context, a *app) (req *tarnv1.ListSnapshotInstancesRequest, err error) {
	req = &tarnv1.ListSnapshotInstancesRequest{Consistency: c.consistency()}
	if c.Snapshot != "" {
		if req.SnapshotId, err = a.snapshotID(ctx, c.Snapshot); err != nil {
			return nil, err
		}
	}
	if c.Share != "" {
		req.ShareId, err = a.shareID(ctx, c.Share)
	}
	return req, err
}

func (c *instanceList) Run(ctx context.Context, a *app, api *client.Client) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		instances, err := collect(c.pageFlags, func(limit int32, token string) ([]*tarnv1.SnapshotInstance, string, error) {
			req.Limit, req.PageToken = limit, token
			p, err := api.Snapshots.ListSnapshotInstances(ctx, req)
			return p.GetSnapshotInstances(), p.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return instanceView.printList(a, w, instances)
	})
}

type instanceShow struct {
	watchFlags
	Instance string `arg:"" help:"Id."`
}

func (c *instanceShow) Run(ctx context.Context, a *app, api *client.Client) error {
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		i, err := api.Snapshots.GetSnapshotInstance(ctx, &tarnv1.GetRequest{Id: c.Instance})
		if err != nil {
			return err
		}
		return instanceView.printOne(a, w, i)
	})
}
