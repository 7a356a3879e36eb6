package cli

import (
	"context"
	"fmt"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
)

var previewView = view[*tarnv1.ManagePreview]{
	id: (*tarnv1.ManagePreview).GetDataset,
	detail: []column[*tarnv1.ManagePreview]{
		{"Dataset", (*tarnv1.ManagePreview).GetDataset},
		{"Host", (*tarnv1.ManagePreview).GetHost},
		{"Obstacle", func(p *tarnv1.ManagePreview) string { return p.GetFinding().GetObstacle() }},
		{"Used", func(p *tarnv1.ManagePreview) string { return bytesText(p.GetFinding().GetUsedBytes()) }},
		{"Share size", func(p *tarnv1.ManagePreview) string { return fmt.Sprintf("%d GiB", p.GetFinding().GetSizeGib()) }},
		{"Snapshots", previewSnapshots},
		{"Becomes", func(p *tarnv1.ManagePreview) string { return p.GetFinding().GetRenamedBelow() + "/<replica id>" }},
		{"Mounted now", func(p *tarnv1.ManagePreview) string { return boolText(p.GetFinding().GetMounted()) }},
		{"Path", func(p *tarnv1.ManagePreview) string { return p.GetFinding().GetMountpoint() }},
		{"Switched off", func(p *tarnv1.ManagePreview) string { return strings.Join(p.GetFinding().GetSwitchedOff(), ", ") }},
		{"Goes on", goesOnText},
	},
}

func previewSnapshots(p *tarnv1.ManagePreview) string {
	f := p.GetFinding()
	if f.GetSnapshots() == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, the newest %s of %s", f.GetSnapshots(), f.GetNewestSnapshot(), stampText(f.GetNewestCreatedAt()))
}

// goesOnText says what a copy would be sent.
func goesOnText(p *tarnv1.ManagePreview) string {
	b := p.GetBase()
	from := fmt.Sprintf("from %s of %s", b.GetBase(), stampText(b.GetBaseCreatedAt()))
	switch b.GetKind() {
	case "":
		return ""
	case "up_to_date":
		return "at once: it has the newest snapshot"
	case "unrelated":
		return "not at all: nothing in common"
	case "diverged":
		from += "; what it has beyond that is kept aside"
	}
	if b.GetEstimateBytes() > 0 {
		from = bytesText(b.GetEstimateBytes()) + " " + from
	}
	return from
}

// foreseen prints what would happen; an obstacle is a failure.
func (a *app) foreseen(p *tarnv1.ManagePreview, err error) error {
	if err != nil {
		return err
	}
	if err := previewView.printOne(a, a.stdout, p); err != nil {
		return err
	}
	if o := p.GetFinding().GetObstacle(); o != "" {
		return fail(exitRefused, "%s", o)
	}
	return nil
}

func (c *replicaCreate) foresee(ctx context.Context, a *app, shareID string) error {
	if c.FromDataset == "" {
		return usage("--dry-run needs --from-dataset: other replicas are placed and filled")
	}
	p, err := a.api.Replicas.ManageReplicaPreview(ctx, &tarnv1.ManageReplicaPreviewRequest{
		ShareId: shareID, OnlyHost: c.OnlyHost, FromDataset: c.FromDataset, MaxWait: c.wait(),
	})
	return a.foreseen(p, err)
}
