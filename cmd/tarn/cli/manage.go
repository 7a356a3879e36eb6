package cli

import (
	"context"
	"strings"

	"connectrpc.com/connect"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type shareManage struct {
	waitFlags
	Dataset     string   `arg:"" help:"Full name on its host, as pool/dataset."`
	Host        string   `required:"" placeholder:"HOST[@BACKEND#POOL]" help:"Host that has the dataset."`
	Type        string   `help:"Share type; the default type if left out." placeholder:"TYPE"`
	Name        string   `help:"Name of the share; the dataset's last part if left out."`
	Description string   `help:"Free text."`
	Size        int64    `help:"Size in GiB; the dataset's quota, or what it uses, if left out." placeholder:"GIB"`
	Protocol    string   `help:"Share protocol." default:"NFS"`
	Property    []string `sep:"none" placeholder:"KEY=VALUE" help:"Metadata; repeatable."`
	Public      bool     `help:"Readable by every project."`
	ID          string   `name:"id" help:"Idempotency key, a UUID; minted if left out."`
	DryRun      bool     `help:"Ask the host what would happen; nothing is changed."`
	maxWaitFlags
}

func (c *shareManage) Run(ctx context.Context, a *app, api *client.Client) error {
	metadata, err := pairs("--property", c.Property)
	if err != nil {
		return err
	}
	name := c.Name
	if name == "" {
		name = c.Dataset[strings.LastIndexByte(c.Dataset, '/')+1:]
	}
	req := &tarnv1.ManageShareRequest{
		Id: c.ID, Dataset: c.Dataset, Host: c.Host, ShareType: c.Type, Name: name, Description: c.Description,
		SizeGib: c.Size, ShareProto: c.Protocol, Metadata: metadata, IsPublic: c.Public,
	}
	if c.DryRun {
		p, err := api.Shares.ManageSharePreview(ctx, &tarnv1.ManageSharePreviewRequest{Share: req, MaxWait: c.wait()})
		return a.foreseen(p, err)
	}
	s, err := api.Shares.ManageShare(ctx, req)
	if err != nil {
		return err
	}
	if c.Wait {
		if s, err = a.awaitManaged(ctx, c.waitFlags, s); err != nil {
			return err
		}
	}
	return shareView.printOne(a, a.stdout, s)
}

// awaitManaged waits until a dataset is taken over. What its host finds in the way is
// on the replica, and for the operator who waits to see.
func (a *app) awaitManaged(ctx context.Context, flags waitFlags, s *tarnv1.Share) (share *tarnv1.Share, err error) {
	id, what := s.GetId(), "share "+label(s.GetName(), s.GetId())
	err = a.await(ctx, flags, what, func(ctx context.Context) (progress, error) {
		if share, err = a.api.Shares.GetShare(ctx, &tarnv1.GetRequest{Id: id}); err != nil {
			return progress{}, err
		}
		status := share.GetStatus()
		if status != tarnv1.Status_STATUS_MANAGE_STARTING && status != tarnv1.Status_STATUS_MANAGE_ERROR {
			return statusProgress(status)
		}
		replicas, err := a.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{ShareId: id})
		if err != nil {
			return progress{}, err
		}
		return obstacle(status, first(replicas.GetReplicas()))
	})
	return share, err
}

func first(list []*tarnv1.Replica) *tarnv1.Replica {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// obstacle says what stands in the way of taking over or giving back; an error when
// the host does not get over it by itself.
func obstacle(status tarnv1.Status, r *tarnv1.Replica) (progress, error) {
	why := replicaErrorText(r)
	switch status {
	case tarnv1.Status_STATUS_MANAGE_ERROR:
		return progress{}, fail(exitFailure, "%s: %s", enumText(status), why).
			next("when the cause is gone it goes on by itself; to give up: `unmanage` it")
	case tarnv1.Status_STATUS_UNMANAGE_ERROR:
		return progress{}, fail(exitFailure, "%s: %s", enumText(status), why).next("when the cause is gone it goes on by itself")
	}
	text := enumText(status)
	if why != "" {
		text += ": " + why
	}
	return progress{text: text, fraction: -1}, nil
}

type shareUnmanage struct {
	waitFlags
	Share string `arg:"" help:"Name or id."`
}

func (c *shareUnmanage) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	replicas, err := api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{ShareId: id})
	if err != nil {
		return err
	}
	if _, err := api.Shares.UnmanageShare(ctx, &tarnv1.UnmanageShareRequest{Id: id}); err != nil {
		return err
	}
	return a.awaitReturned(ctx, c.waitFlags, "share "+c.Share, id, first(replicas.GetReplicas()))
}

type replicaUnmanage struct {
	waitFlags
	Replica string `arg:"" help:"Id, SHARE/ZONE or SHARE/HOST."`
}

func (c *replicaUnmanage) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.replicaID(ctx, c.Replica)
	if err != nil {
		return err
	}
	r, err := api.Replicas.UnmanageReplica(ctx, &tarnv1.UnmanageReplicaRequest{Id: id})
	if err != nil {
		return err
	}
	return a.awaitReturned(ctx, c.waitFlags, "replica "+c.Replica, id, r)
}

// awaitReturned waits, if asked to, until a replica's host has given its dataset back.
func (a *app) awaitReturned(ctx context.Context, flags waitFlags, what, id string, r *tarnv1.Replica) error {
	if !flags.Wait {
		a.printResult(id, "%s is being given back%s", what, under(r))
		return nil
	}
	err := a.await(ctx, flags, what, func(ctx context.Context) (progress, error) {
		now, err := a.api.Replicas.GetReplica(ctx, &tarnv1.GetRequest{Id: r.GetId()})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return progress{done: true, text: "given back", fraction: 1}, nil
		}
		if err != nil {
			return progress{}, err
		}
		return obstacle(now.GetStatus(), now)
	})
	if err != nil {
		return err
	}
	a.printResult(id, "%s given back%s", what, under(r))
	return nil
}

// under is the name that a dataset has when it is nobody's.
func under(r *tarnv1.Replica) string {
	switch {
	case r.GetManagedFrom() != "":
		return " as " + r.GetManagedFrom()
	case r.GetPool() != "":
		return "; its dataset stays on pool " + r.GetPool() + " under the replica's id, " + r.GetId()
	}
	return ""
}

type snapshotManage struct {
	waitFlags
	Share       string   `arg:"" help:"Name or id."`
	Snapshot    string   `arg:"" help:"Name in the dataset, with or without what precedes the @."`
	Name        string   `help:"Name of the snapshot; that in the dataset if left out."`
	Description string   `help:"Free text."`
	Property    []string `sep:"none" placeholder:"KEY=VALUE" help:"Metadata; repeatable."`
	ID          string   `name:"id" help:"Idempotency key, a UUID; minted if left out."`
}

func (c *snapshotManage) Run(ctx context.Context, a *app, api *client.Client) error {
	metadata, err := pairs("--property", c.Property)
	if err != nil {
		return err
	}
	shareID, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	name := c.Name
	if name == "" {
		name = c.Snapshot[strings.LastIndexByte(c.Snapshot, '@')+1:]
	}
	s, err := api.Snapshots.ManageSnapshot(ctx, &tarnv1.ManageSnapshotRequest{
		Id: c.ID, ShareId: shareID, ProviderLocation: c.Snapshot, Name: name, Description: c.Description, Metadata: metadata,
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

type snapshotUnmanage struct {
	waitFlags
	Snapshot string `arg:"" help:"Name or id."`
}

func (c *snapshotUnmanage) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.snapshotID(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	if _, err := api.Snapshots.UnmanageSnapshot(ctx, &tarnv1.UnmanageSnapshotRequest{Id: id}); err != nil {
		return err
	}
	if !c.Wait {
		a.printResult(id, "snapshot %s is being given back", c.Snapshot)
		return nil
	}
	err = a.await(ctx, c.waitFlags, "snapshot "+c.Snapshot, func(ctx context.Context) (progress, error) {
		s, err := api.Snapshots.GetSnapshot(ctx, &tarnv1.GetRequest{Id: id})
		if connect.CodeOf(err) == connect.CodeNotFound {
			return progress{done: true, text: "given back", fraction: 1}, nil
		}
		if err != nil {
			return progress{}, err
		}
		return statusProgress(s.GetStatus())
	})
	if err != nil {
		return err
	}
	a.printResult(id, "snapshot %s given back", c.Snapshot)
	return nil
}
