package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type replicaCmd struct {
	Create            replicaCreate         `cmd:"" help:"Add a replica; the scheduler spreads by zone first."`
	List              replicaList           `cmd:"" help:"List replicas with their lag."`
	Show              replicaShow           `cmd:"" help:"Show one replica."`
	Promote           replicaPromote        `cmd:"" help:"Make a replica the active one."`
	CancelPromotion   replicaCancel         `cmd:"" help:"Give writes back to the old active replica of a share."`
	Resync            replicaResync         `cmd:"" help:"Compare everything again; operators only."`
	Set               replicaSet            `cmd:"" help:"Set metadata."`
	Unset             replicaUnset          `cmd:"" help:"Remove metadata."`
	ResetState        replicaResetState     `cmd:"" help:"Set the status by hand; operators only."`
	ResetReplicaState replicaResetReplState `cmd:"" help:"Set the replica state by hand; operators only."`
	Delete            replicaDelete         `cmd:"" help:"Delete replicas; never the last active one."`
	Unknown           replicaUnknown        `cmd:"" help:"After a restore: replicas that hosts have and the state does not know."`
	Divergent         replicaDivergent      `cmd:"" help:"Data kept aside when the histories of replicas forked."`
	Unmanage          replicaUnmanage       `cmd:"" help:"Give a secondary's dataset back; operators only."`
	ExportLocation    replicaExportLocation `cmd:"" help:"Where clients mount a replica."`
}

var replicaView = view[*tarnv1.Replica]{
	id: (*tarnv1.Replica).GetId,
	list: []column[*tarnv1.Replica]{
		{"ID", (*tarnv1.Replica).GetId},
		{"SHARE", (*tarnv1.Replica).GetShareId},
		{"STATUS", func(r *tarnv1.Replica) string { return enumText(r.GetStatus()) }},
		{"STATE", func(r *tarnv1.Replica) string { return enumText(r.GetReplicaState()) }},
		{"ZONE", (*tarnv1.Replica).GetAvailabilityZone},
		{"HOST", (*tarnv1.Replica).GetHost},
		{"LAG", lagText},
		{"TRANSFER", func(r *tarnv1.Replica) string { return transferText(r.GetObserved().GetTransfer()) }},
	},
	detail: []column[*tarnv1.Replica]{
		{"ID", (*tarnv1.Replica).GetId},
		{"Share", (*tarnv1.Replica).GetShareId},
		{"Status", func(r *tarnv1.Replica) string { return enumText(r.GetStatus()) }},
		{"Replica state", func(r *tarnv1.Replica) string { return enumText(r.GetReplicaState()) }},
		{"Zone", (*tarnv1.Replica).GetAvailabilityZone},
		{"Host", (*tarnv1.Replica).GetHost},
		{"Writable", func(r *tarnv1.Replica) string { return boolText(r.GetObserved().GetWritable()) }},
		{"Lag", lagText},
		{"Behind", behindText},
		{"Transfer", func(r *tarnv1.Replica) string { return transferText(r.GetObserved().GetTransfer()) }},
		{"Used", func(r *tarnv1.Replica) string { return bytesText(r.GetObserved().GetUsedBytes()) }},
		{"Head", headText},
		{"Key", func(r *tarnv1.Replica) string { return keyText(r.GetObserved()) }},
		{"Mountpoint", func(r *tarnv1.Replica) string { return r.GetObserved().GetMountpoint() }},
		{"Export locations", func(r *tarnv1.Replica) string { return locationsText(r.GetExportLocations()) }},
		{"Error", replicaErrorText},
		{"Divergent copies", divergentText},
		{"Managed from", (*tarnv1.Replica).GetManagedFrom},
		{"Metadata", func(r *tarnv1.Replica) string { return mapText(r.GetMetadata()) }},
		{"Reported", func(r *tarnv1.Replica) string { return stampText(r.GetObserved().GetReportedAt()) }},
		{"Created", func(r *tarnv1.Replica) string { return stampText(r.GetCreatedAt()) }},
	},
}

// keyText says whether an encrypted replica's host has the key, and where it looks.
func keyText(o *tarnv1.ReplicaObservation) string {
	switch o.GetKeyState() {
	case tarnv1.KeyState_KEY_STATE_AVAILABLE:
		return "on the host"
	case tarnv1.KeyState_KEY_STATE_MISSING:
		return strings.TrimSpace("not on the host: copy it there to promote " + o.GetKeyFile())
	}
	return ""
}

func lagText(r *tarnv1.Replica) string { return durationText(r.GetObserved().GetLag()) }

func behindText(r *tarnv1.Replica) string {
	o := r.GetObserved()
	if o == nil || r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE {
		return ""
	}
	return fmt.Sprintf("%s, %d snapshots", bytesText(o.GetLagBytes()), o.GetLagSnapshots())
}

func headText(r *tarnv1.Replica) string {
	guid, at := r.GetObserved().GetHeadGuid(), r.GetObserved().GetHeadCreatedAt()
	if guid == 0 {
		guid, at = r.GetHeadGuid(), r.GetHeadCreatedAt()
	}
	if guid == 0 {
		return ""
	}
	return fmt.Sprintf("%s of %s", guidText(guid), stampText(at))
}

func transferText(t *tarnv1.TransferProgress) string {
	if t == nil {
		return ""
	}
	text := t.GetKind() + " " + bytesText(t.GetDoneBytes())
	if t.GetExpectedBytes() > 0 {
		text += " of " + bytesText(t.GetExpectedBytes())
	}
	if t.GetEta() != nil {
		text += ", ETA " + durationText(t.GetEta())
	}
	return text
}

func replicaErrorText(r *tarnv1.Replica) string {
	e := r.GetError()
	if o := r.GetObserved().GetError(); o != nil {
		e = o
	}
	if e == nil {
		return ""
	}
	text := enumText(e.GetCode()) + ": " + e.GetMessage()
	if e.GetRetrying() {
		text += " (trying again by itself)"
	}
	return text
}

func divergentText(r *tarnv1.Replica) string {
	var lines []string
	for _, d := range r.GetDivergentCopies() {
		lines = append(lines, fmt.Sprintf("%s, %s, epoch %d", d.GetDataset(), bytesText(d.GetUsedBytes()), d.GetEpoch()))
	}
	return strings.Join(lines, "\n")
}

type replicaCreate struct {
	waitFlags
	Share            string   `arg:"" help:"Name or id."`
	AvailabilityZone string   `name:"availability-zone" aliases:"zone" help:"Zone; spread by zone if left out." placeholder:"ZONE"`
	Property         []string `sep:"none" placeholder:"KEY=VALUE" help:"Metadata; repeatable."`
	OnlyHost         string   `help:"Exactly this host@backend#pool; operators only."`
	FromDataset      string   `help:"Go on with this dataset there, replicated before tarn; operators only." placeholder:"DATASET"`
	DryRun           bool     `help:"With --from-dataset: ask both hosts what would happen; nothing is changed."`
	maxWaitFlags
	ID string `name:"id" help:"Idempotency key, a UUID; minted if left out."`
}

func (c *replicaCreate) Run(ctx context.Context, a *app, api *client.Client) error {
	metadata, err := pairs("--property", c.Property)
	if err != nil {
		return err
	}
	shareID, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	if c.DryRun {
		return c.foresee(ctx, a, shareID)
	}
	r, err := api.Replicas.CreateReplica(ctx, &tarnv1.CreateReplicaRequest{
		Id: c.ID, ShareId: shareID, AvailabilityZone: c.AvailabilityZone, OnlyHost: c.OnlyHost, Metadata: metadata,
		FromDataset: c.FromDataset,
	})
	if err != nil {
		return err
	}
	if c.Wait {
		if r, err = a.awaitInSync(ctx, c.waitFlags, r.GetId()); err != nil {
			return err
		}
	}
	return replicaView.printOne(a, a.stdout, r)
}

// awaitInSync waits until a replica is available and in_sync (or active, for writable shares).
func (a *app) awaitInSync(ctx context.Context, flags waitFlags, id string) (replica *tarnv1.Replica, err error) {
	err = a.await(ctx, flags, "replica "+id, func(ctx context.Context) (progress, error) {
		replica, err = a.api.Replicas.GetReplica(ctx, &tarnv1.GetRequest{Id: id})
		if err != nil {
			return progress{}, err
		}
		status := replica.GetStatus()
		if status == tarnv1.Status_STATUS_MANAGE_STARTING || status == tarnv1.Status_STATUS_MANAGE_ERROR {
			return obstacle(status, replica)
		}
		p, err := statusProgress(status)
		if err != nil {
			return p, err
		}
		return syncProgress(p, replica), nil
	})
	return replica, err
}

func syncProgress(p progress, r *tarnv1.Replica) progress {
	state := r.GetReplicaState()
	p.text += ", " + enumText(state)
	inPlace := state == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC || state == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE
	p.done = p.done && inPlace
	t := r.GetObserved().GetTransfer()
	p.fraction = -1
	if t.GetExpectedBytes() > 0 {
		p.fraction = float64(t.GetDoneBytes()) / float64(t.GetExpectedBytes())
		p.eta = t.GetEta().AsDuration()
	}
	return p
}

type replicaList struct {
	pageFlags
	watchFlags
	Share            string `help:"Only of this share."`
	Host             string `help:"Host name or id; operators only."`
	ReplicaState     string `help:"active, in_sync, out_of_sync or error."`
	Status           string `help:"Status, as printed."`
	AvailabilityZone string `name:"availability-zone" aliases:"zone" help:"Zone."`
}

func (c *replicaList) request(ctx context.Context, a *app) (*tarnv1.ListReplicasRequest, error) {
	state, err := parseEnum[tarnv1.ReplicaState]("--replica-state", c.ReplicaState)
	if err != nil {
		return nil, err
	}
	status, err := parseEnum[tarnv1.Status]("--status", c.Status)
	if err != nil {
		return nil, err
	}
	req := &tarnv1.ListReplicasRequest{
		Consistency: c.consistency(), AllProjects: c.All, Host: c.Host,
		ReplicaState: state, Status: status, AvailabilityZone: c.AvailabilityZone,
	}
	if c.Share != "" {
		req.ShareId, err = a.shareID(ctx, c.Share)
	}
	return req, err
}

func (c *replicaList) Run(ctx context.Context, a *app, api *client.Client) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		replicas, err := collect(c.pageFlags, func(limit int32, token string) ([]*tarnv1.Replica, string, error) {
			req.Limit, req.PageToken = limit, token
			p, err := api.Replicas.ListReplicas(ctx, req)
			return p.GetReplicas(), p.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return replicaView.printList(a, w, replicas)
	})
}

type replicaShow struct {
	watchFlags
	Replica string `arg:"" help:"Id, SHARE/ZONE, SHARE/HOST or SHARE/active."`
}

func (c *replicaShow) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.replicaID(ctx, c.Replica)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		r, err := api.Replicas.GetReplica(ctx, &tarnv1.GetRequest{Id: id})
		if err != nil {
			return err
		}
		return replicaView.printOne(a, w, r)
	})
}
