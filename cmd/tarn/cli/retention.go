package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type shareRetention struct {
	Share  string  `arg:"" help:"Name or id."`
	DryRun bool    `help:"List every snapshot: what retention would remove now, and why the others stay."`
	Keep   *string `help:"With --dry-run: try this policy, as in tarn:keep, instead of the share's; '' keeps the newest only." placeholder:"POLICY"`
	maxWaitFlags
}

func (c *shareRetention) Run(ctx context.Context, a *app, api *client.Client) error {
	if c.Keep != nil && !c.DryRun {
		return usage("--keep needs --dry-run: a share's policy is the extra spec tarn:keep of its type")
	}
	id, err := a.shareID(ctx, c.Share)
	if err != nil {
		return err
	}
	found, err := api.Shares.GetShareRetention(ctx, &tarnv1.GetShareRetentionRequest{Id: id, Keep: c.Keep, MaxWait: c.wait()})
	if err != nil {
		return err
	}
	if err := c.print(a, found); err != nil {
		return err
	}
	return a.answered(found)
}

func (c *shareRetention) print(a *app, found *tarnv1.ShareRetention) error {
	if a.Output != "table" {
		return printMachine(a, a.stdout, found)
	}
	if c.DryRun || a.Quiet {
		return verdictView.printList(a, a.stdout, verdicts(found, a.Quiet))
	}
	policy := found.GetKeep()
	if policy == "" {
		policy = "none: only the newest replication snapshots stay"
	}
	fmt.Fprintf(a.stdout, "policy: %s\n", policy)
	return retentionView.printList(a, a.stdout, found.GetReplicas())
}

// answered says which hosts did not, and fails when none did.
func (a *app) answered(found *tarnv1.ShareRetention) error {
	silent := 0
	for _, r := range found.GetReplicas() {
		if r.GetPreview() == nil {
			silent++
			fmt.Fprintf(a.stderr, "replica %s %s: %s\n", r.GetReplicaId(), r.GetHost(), r.GetError())
		} else if n := int(r.GetPreview().GetTotal()) - len(r.GetPreview().GetSnapshots()); n > 0 {
			fmt.Fprintf(a.stderr, "replica %s %s: the %d oldest of %d snapshots are not listed\n",
				r.GetReplicaId(), r.GetHost(), n, r.GetPreview().GetTotal())
		}
		if at := r.GetPreview().GetAsOf(); at != nil && time.Since(at.AsTime()).Abs() > time.Hour {
			fmt.Fprintf(a.stderr, "replica %s %s: ages are counted to %s: its clock is not believed yet\n", r.GetReplicaId(), r.GetHost(), stampText(at))
		}
	}
	if silent > 0 && silent == len(found.GetReplicas()) {
		return fail(exitUnavailable, "no host has answered").next("`tarn replica list --share %s` shows which hosts are up", found.GetShareId())
	}
	return nil
}

var retentionView = view[*tarnv1.ReplicaRetention]{
	id: (*tarnv1.ReplicaRetention).GetReplicaId,
	list: []column[*tarnv1.ReplicaRetention]{
		{"REPLICA", (*tarnv1.ReplicaRetention).GetReplicaId},
		{"STATE", func(r *tarnv1.ReplicaRetention) string { return enumText(r.GetReplicaState()) }},
		{"ZONE", (*tarnv1.ReplicaRetention).GetAvailabilityZone},
		{"HOST", (*tarnv1.ReplicaRetention).GetHost},
		{"SNAPSHOTS", countText},
		{"OLDEST", oldestText},
		{"KEPT FOR", keptText},
		{"LAST RUN", func(r *tarnv1.ReplicaRetention) string { return stampText(r.GetPreview().GetLastRunAt()) }},
	},
}

func countText(r *tarnv1.ReplicaRetention) string {
	p := r.GetPreview()
	switch {
	case p == nil:
		return "no answer"
	case p.GetGoing() == 0:
		return fmt.Sprint(p.GetTotal())
	}
	return fmt.Sprintf("%d, %d to go (%s)", p.GetTotal(), p.GetGoing(), bytesText(p.GetFreedBytes()))
}

func oldestText(r *tarnv1.ReplicaRetention) string {
	if list := r.GetPreview().GetSnapshots(); len(list) > 0 {
		return stampText(list[0].GetCreatedAt())
	}
	return ""
}

// keptText counts snapshots by what keeps them first.
func keptText(r *tarnv1.ReplicaRetention) string {
	counts := map[string]int{}
	var order []string
	for _, s := range r.GetPreview().GetSnapshots() {
		if s.GetGoes() || len(s.GetCauses()) == 0 {
			continue
		}
		word := enumText(s.GetCauses()[0].GetReason())
		if counts[word] == 0 {
			order = append(order, word)
		}
		counts[word]++
	}
	var parts []string
	for _, word := range order {
		parts = append(parts, fmt.Sprintf("%s %d", word, counts[word]))
	}
	return strings.Join(parts, ", ")
}

// placedVerdict is one snapshot of one replica.
type placedVerdict struct {
	*tarnv1.RetentionVerdict
	place string
}

var verdictView = view[placedVerdict]{
	id: func(v placedVerdict) string { return guidText(v.GetGuid()) },
	list: []column[placedVerdict]{
		{"REPLICA AT", func(v placedVerdict) string { return v.place }},
		{"SNAPSHOT", func(v placedVerdict) string { return v.GetName() }},
		{"GUID", func(v placedVerdict) string { return guidText(v.GetGuid()) }},
		{"TAKEN", func(v placedVerdict) string { return stampText(v.GetCreatedAt()) }},
		{"VERDICT", func(v placedVerdict) string {
			if v.GetGoes() {
				return "goes"
			}
			return "stays"
		}},
		{"BECAUSE", func(v placedVerdict) string { return causesText(v.RetentionVerdict) }},
	},
}

// verdicts lists all snapshots, or those alone that go.
func verdicts(found *tarnv1.ShareRetention, going bool) []placedVerdict {
	var all []placedVerdict
	for _, r := range found.GetReplicas() {
		place := r.GetHost()
		if place == "" {
			place = r.GetAvailabilityZone()
		}
		for _, v := range r.GetPreview().GetSnapshots() {
			if v.GetGoes() || !going {
				all = append(all, placedVerdict{v, place})
			}
		}
	}
	return all
}

func causesText(v *tarnv1.RetentionVerdict) string {
	if v.GetGoes() {
		return "nothing needs it"
	}
	var parts []string
	for _, c := range v.GetCauses() {
		text := enumText(c.GetReason())
		if c.GetDetail() != "" {
			text += " " + c.GetDetail()
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}
