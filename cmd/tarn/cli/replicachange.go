package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type replicaPromote struct {
	waitFlags
	Replica          string         `arg:"" help:"Id, SHARE/ZONE or SHARE/HOST."`
	QuiesceWaitTime  time.Duration  `help:"Planned: cancel by itself if this replica has not caught up and the old active not stopped by then, 1h at the most. Left out: 10m to catch up, then 1m to stop; with --at-once 1m to stop." placeholder:"DURATION"`
	AtOnce           bool           `help:"Planned: stop the old active at once, however far behind this replica is; writes are refused until it has the rest."`
	Force            bool           `help:"The active replica's host is gone: accept loss, after its lease has run out."`
	MaxLoss          *time.Duration `help:"With --force: refuse to lose writes older than this." placeholder:"DURATION"`
	Reason           string         `help:"With --force, required: kept in the audit log and with the loss report."`
	FromSnapshot     string         `help:"With --force: go on from exactly the snapshot with this GUID, or not at all." placeholder:"GUID"`
	LoseSnapshot     []string       `sep:"none" help:"With --force: this snapshot may be lost, by its GUID, although other replicas had it; repeatable." placeholder:"GUID"`
	AttestHostIsDown bool           `help:"With --force: I have made sure that the old host is off. Audited; operators only."`
	OpID             string         `name:"op-id" help:"Idempotency key, a UUID; minted if left out."`
}

func (c *replicaPromote) request(id string) (*tarnv1.PromoteReplicaRequest, error) {
	forceOnly := c.MaxLoss != nil || c.Reason != "" || c.AttestHostIsDown || c.FromSnapshot != "" || len(c.LoseSnapshot) > 0
	if forceOnly && !c.Force {
		return nil, usage("--max-loss, --reason, --from-snapshot, --lose-snapshot and --attest-host-is-down need --force")
	}
	req := &tarnv1.PromoteReplicaRequest{Id: id, OpId: c.OpID, AtOnce: c.AtOnce, Force: c.Force, AttestHostIsDown: c.AttestHostIsDown}
	if c.QuiesceWaitTime != 0 {
		req.QuiesceWaitTime = durationpb.New(c.QuiesceWaitTime)
	}
	if c.Force {
		req.Consent = &tarnv1.Consent{Reason: c.Reason}
		if c.MaxLoss != nil {
			req.Consent.MaxLoss = durationpb.New(*c.MaxLoss)
		}
		return req, c.snapshots(req.GetConsent())
	}
	return req, nil
}

// snapshots puts the snapshots that were named into the consent.
func (c *replicaPromote) snapshots(consent *tarnv1.Consent) (err error) {
	if c.FromSnapshot != "" {
		if consent.HeadGuid, err = parseGUID("--from-snapshot", c.FromSnapshot); err != nil {
			return err
		}
	}
	for _, text := range c.LoseSnapshot {
		guid, err := parseGUID("--lose-snapshot", text)
		if err != nil {
			return err
		}
		consent.LostGuids = append(consent.LostGuids, guid)
	}
	return nil
}

// parseGUID reads a GUID as tarn and zfs print it, or in hexadecimal with 0x.
func parseGUID(flag, text string) (uint64, error) {
	guid, err := strconv.ParseUint(text, 0, 64)
	if err != nil || guid == 0 {
		return 0, usage("%s: %q is no GUID", flag, text).next("`tarn snapshot show` prints a snapshot's")
	}
	return guid, nil
}

func (c *replicaPromote) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.replicaID(ctx, c.Replica)
	if err != nil {
		return err
	}
	req, err := c.request(id)
	if err != nil {
		return err
	}
	answer, err := api.Replicas.PromoteReplica(ctx, req)
	if err != nil {
		return err
	}
	r := answer.GetReplica()
	if !answer.GetStarted() {
		fmt.Fprintln(a.stderr, "it is the active replica already")
		return replicaView.printOne(a, a.stdout, r)
	}
	if c.Wait {
		if r, err = a.awaitActive(ctx, c.waitFlags, r, answer.GetOpId()); err != nil {
			return err
		}
	}
	return replicaView.printOne(a, a.stdout, r)
}

// awaitActive follows one promotion to its end and prints what was lost, if forced.
func (a *app) awaitActive(ctx context.Context, flags waitFlags, r *tarnv1.Replica, opID string) (*tarnv1.Replica, error) {
	var share *tarnv1.Share
	start := time.Now()
	err := a.await(ctx, flags, "promotion", func(ctx context.Context) (progress, error) {
		var err error
		if share, err = a.api.Shares.GetShare(ctx, &tarnv1.GetRequest{Id: r.GetShareId()}); err != nil {
			return progress{}, err
		}
		if r, err = a.api.Replicas.GetReplica(ctx, &tarnv1.GetRequest{Id: r.GetId()}); err != nil {
			return progress{}, err
		}
		return promotionProgress(share.GetFencing(), r, opID)
	})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(a.stderr, "promotion: active under epoch %d after %s\n", share.GetFencing().GetEpoch(), shortDuration(time.Since(start)))
	printLoss(a.stderr, share.GetFencing())
	return r, nil
}

func promotionProgress(f *tarnv1.Fencing, r *tarnv1.Replica, opID string) (progress, error) {
	if f.GetPhase() == tarnv1.FencingPhase_FENCING_PHASE_FENCING && f.GetOpId() == opID {
		return progress{text: fencingStep(f), fraction: -1}, nil
	}
	if p := f.GetPreparing(); p.GetOpId() == opID && !p.GetCancelled() {
		text := "target catches up before anything stops"
		if lag := r.GetObserved().GetLag(); lag != nil {
			text += ", " + durationText(lag) + " behind"
		}
		return progress{text: text, fraction: -1}, nil
	}
	if f.GetOwnerReplicaId() != r.GetId() {
		return progress{}, fail(exitRefused, "promotion ended without making this replica active (epoch %d)", f.GetEpoch()).
			next("`tarn message list --resource %s` says why", r.GetId())
	}
	p, err := statusProgress(r.GetStatus())
	p.text = enumText(r.GetReplicaState()) + ", " + p.text
	return p, err
}

// fencingStep says which step of the promotion is waited for.
func fencingStep(f *tarnv1.Fencing) string {
	switch {
	case f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_FORCED && !f.GetSealed():
		return "sealing the target"
	case f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED && f.GetMode() == tarnv1.PromotionMode_PROMOTION_MODE_FORCED:
		return "waiting for proof that the old active has stopped"
	case f.GetProof() == tarnv1.FencingProof_FENCING_PROOF_UNSPECIFIED:
		return "stopping writes on the old active"
	}
	return "target catches up with the last snapshot"
}

func printLoss(w io.Writer, f *tarnv1.Fencing) {
	loss := f.GetLoss()
	if loss == nil || f.GetMode() != tarnv1.PromotionMode_PROMOTION_MODE_FORCED {
		return
	}
	fmt.Fprintf(w, "kept: everything up to %s (snapshot %s)\n", stampText(loss.GetKeptCreatedAt()), guidText(loss.GetKeptGuid()))
	fmt.Fprintf(w, "lost: writes of the %s before the failover, %s; %s dirty at last contact\n",
		durationText(loss.GetKeptAge()), loss.GetBound(), bytesText(loss.GetLastKnownDirtyBytes()))
	for _, s := range loss.GetLostSnapshots() {
		fmt.Fprintf(w, "lost snapshot: %s %s\n", s.GetSnapshotId(), printable(s.GetName()))
	}
}

type replicaCancel struct {
	Share string `arg:"" help:"Name or id of the share."`
	OpID  string `name:"op-id" help:"Only this promotion."`
}

func (c *replicaCancel) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	r, err := api.Replicas.CancelPromotion(ctx, &tarnv1.CancelPromotionRequest{ShareId: id, OpId: c.OpID})
	if err != nil {
		return err
	}
	return replicaView.printOne(a, a.stdout, r)
}

type replicaResync struct {
	waitFlags
	Replica string `arg:"" help:"Id, SHARE/ZONE or SHARE/HOST."`
}

func (c *replicaResync) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.replicaID(ctx, c.Replica)
	if err != nil {
		return err
	}
	r, err := api.Replicas.ResyncReplica(ctx, &tarnv1.GetRequest{Id: id})
	if err != nil {
		return err
	}
	if c.Wait {
		if r, err = a.awaitInSync(ctx, c.waitFlags, id); err != nil {
			return err
		}
	}
	return replicaView.printOne(a, a.stdout, r)
}

type replicaSet struct {
	Replica  string   `arg:"" help:"Id, SHARE/ZONE or SHARE/HOST."`
	Property []string `sep:"none" required:"" placeholder:"KEY=VALUE" help:"Metadata; repeatable."`
	Replace  bool     `help:"Replace all metadata instead of adding."`
}

func (c *replicaSet) Run(ctx context.Context, a *app, api *client.Client) error {
	metadata, err := pairs("--property", c.Property)
	if err != nil {
		return err
	}
	id, err := a.replicaID(ctx, c.Replica)
	if err != nil {
		return err
	}
	r, err := api.Replicas.SetReplicaMetadata(ctx, &tarnv1.SetMetadataRequest{Id: id, Metadata: metadata, Replace: c.Replace})
	if err != nil {
		return err
	}
	return replicaView.printOne(a, a.stdout, r)
}

type replicaUnset struct {
	Replica string   `arg:"" help:"Id, SHARE/ZONE or SHARE/HOST."`
	Keys    []string `arg:"" help:"Metadata keys to remove."`
}

func (c *replicaUnset) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.replicaID(ctx, c.Replica)
	if err != nil {
		return err
	}
	r, err := api.Replicas.UnsetReplicaMetadata(ctx, &tarnv1.UnsetMetadataRequest{Id: id, Keys: c.Keys})
	if err != nil {
		return err
	}
	return replicaView.printOne(a, a.stdout, r)
}

type replicaResetState struct {
	Replica string `arg:"" help:"Id, SHARE/ZONE or SHARE/HOST."`
	Status  string `arg:"" help:"New status, for example available or error."`
}

func (c *replicaResetState) Run(ctx context.Context, a *app, api *client.Client) error {
	status, err := parseEnum[tarnv1.Status]("status", c.Status)
	if err != nil {
		return err
	}
	id, err := a.replicaID(ctx, c.Replica)
	if err != nil {
		return err
	}
	r, err := api.Replicas.ResetReplicaStatus(ctx, &tarnv1.ResetStatusRequest{Id: id, Status: status})
	if err != nil {
		return err
	}
	return replicaView.printOne(a, a.stdout, r)
}

type replicaResetReplState struct {
	Replica string `arg:"" help:"Id, SHARE/ZONE or SHARE/HOST."`
	State   string `arg:"" help:"in_sync, out_of_sync or error."`
}

func (c *replicaResetReplState) Run(ctx context.Context, a *app, api *client.Client) error {
	state, err := parseEnum[tarnv1.ReplicaState]("replica state", c.State)
	if err != nil {
		return err
	}
	id, err := a.replicaID(ctx, c.Replica)
	if err != nil {
		return err
	}
	r, err := api.Replicas.ResetReplicaState(ctx, &tarnv1.ResetReplicaStateRequest{Id: id, ReplicaState: state})
	if err != nil {
		return err
	}
	return replicaView.printOne(a, a.stdout, r)
}

type replicaDelete struct {
	waitFlags
	Replicas []string `arg:"" help:"Ids, SHARE/ZONE or SHARE/HOST."`
	Force    bool     `help:"Do not wait for the host; operators only."`
}

func (c *replicaDelete) Run(ctx context.Context, a *app, api *client.Client) error {
	for _, ref := range c.Replicas {
		id, err := a.replicaID(ctx, ref)
		if err != nil {
			return err
		}
		if _, err := api.Replicas.DeleteReplica(ctx, &tarnv1.DeleteReplicaRequest{Id: id, Force: c.Force}); err != nil {
			return err
		}
		err = a.awaitGone(ctx, c.waitFlags, "replica "+ref, func(ctx context.Context) (tarnv1.Status, error) {
			r, err := api.Replicas.GetReplica(ctx, &tarnv1.GetRequest{Id: id})
			return r.GetStatus(), err
		})
		if err != nil {
			return err
		}
		a.printResult(id, "replica %s %s", ref, deletionText(c.Wait))
	}
	return nil
}

type replicaExportLocation struct {
	List replicaExportLocationList `cmd:"" help:"List a replica's export locations."`
}

type replicaExportLocationList struct {
	watchFlags
	Replica string `arg:"" help:"Id, SHARE/ZONE or SHARE/HOST."`
}

func (c *replicaExportLocationList) Run(ctx context.Context, a *app, api *client.Client) error {
	id, err := a.replicaID(ctx, c.Replica)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		answer, err := api.Replicas.ListReplicaExportLocations(ctx, &tarnv1.GetRequest{Id: id})
		if err != nil {
			return err
		}
		return locationView.printList(a, w, answer.GetExportLocations())
	})
}
