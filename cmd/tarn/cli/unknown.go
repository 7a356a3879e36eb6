package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type replicaUnknown struct {
	List    unknownList    `cmd:"" help:"List data of replicas that hosts have and the state does not know; operators only."`
	Adopt   unknownAdopt   `cmd:"" help:"Make one a replica of its share again, as it lies there; operators only."`
	Dismiss unknownDismiss `cmd:"" help:"Let the share go on without one; its data stay where they are; operators only."`
}

var unknownView = view[*tarnv1.UnknownReplica]{
	id: (*tarnv1.UnknownReplica).GetReplicaId,
	list: []column[*tarnv1.UnknownReplica]{
		{"REPLICA", (*tarnv1.UnknownReplica).GetReplicaId},
		{"SHARE", (*tarnv1.UnknownReplica).GetShareId},
		{"EPOCH", func(u *tarnv1.UnknownReplica) string { return strconv.FormatUint(u.GetEpoch(), 10) }},
		{"WAS", func(u *tarnv1.UnknownReplica) string {
			if u.GetPrimary() {
				return "active"
			}
			return "secondary"
		}},
		{"USED", func(u *tarnv1.UnknownReplica) string { return bytesText(u.GetUsedBytes()) }},
		{"HOST", (*tarnv1.UnknownReplica).GetHost},
		{"DATASET", (*tarnv1.UnknownReplica).GetDataset},
		{"STATE", unknownStateText},
	},
}

func unknownStateText(u *tarnv1.UnknownReplica) string {
	switch {
	case u.GetDismissedBy() != "":
		return "dismissed by " + u.GetDismissedBy()
	case u.GetFoundAt() != nil:
		return "the share waits for a decision"
	}
	return "kept"
}

type unknownList struct {
	Share string `arg:"" optional:"" help:"Name or id of the share; of all if left out."`
	watchFlags
}

func (c *unknownList) Run(ctx context.Context, a *app, api *client.Client) error {
	req := &tarnv1.ListUnknownReplicasRequest{}
	if c.Share != "" {
		var err error
		if req.ShareId, err = a.shareID(ctx, c.Share); err != nil {
			return err
		}
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		found, err := api.Replicas.ListUnknownReplicas(ctx, req)
		if err != nil {
			return err
		}
		if len(found.GetSilentHosts()) > 0 {
			fmt.Fprintf(a.stderr, "not told yet what they have: %s\n", strings.Join(found.GetSilentHosts(), ", "))
		}
		return unknownView.printList(a, w, found.GetUnknownReplicas())
	})
}

type unknownAdopt struct {
	Replica string `arg:"" help:"Id, as listed."`
}

func (c *unknownAdopt) Run(ctx context.Context, a *app, api *client.Client) error {
	r, err := api.Replicas.AdoptUnknownReplica(ctx, &tarnv1.UnknownReplicaRequest{ReplicaId: c.Replica})
	if err != nil {
		return err
	}
	return replicaView.printOne(a, a.stdout, r)
}

type unknownDismiss struct {
	Replica string `arg:"" help:"Id, as listed."`
}

func (c *unknownDismiss) Run(ctx context.Context, a *app, api *client.Client) error {
	share, err := api.Replicas.DismissUnknownReplica(ctx, &tarnv1.UnknownReplicaRequest{ReplicaId: c.Replica})
	if err != nil {
		return err
	}
	return shareView.printOne(a, a.stdout, share)
}
