package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type quotaCmd struct {
	Show  quotaShow  `cmd:"" help:"Show limits and use."`
	Set   quotaSet   `cmd:"" help:"Set limits; operators only."`
	Reset quotaReset `cmd:"" help:"Return to the defaults; operators only."`
}

type quotaTarget struct {
	ProjectID string `arg:"" optional:"" name:"project" help:"Project id; your own if left out, 'defaults' for the class defaults."`
	User      string `help:"Narrow to a user of the project."`
	ShareType string `help:"Narrow to a share type."`
}

func (t *quotaTarget) request(ctx context.Context, a *app) (*tarnv1.GetQuotaRequest, error) {
	req := &tarnv1.GetQuotaRequest{ProjectId: t.ProjectID, UserId: t.User}
	if t.ShareType == "" {
		return req, nil
	}
	id, err := a.shareTypeID(ctx, t.ShareType)
	req.ShareTypeId = id
	return req, err
}

type quotaShow struct {
	quotaTarget
	watchFlags
}

func (c *quotaShow) Run(ctx context.Context, a *app, api *client.Client) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		set, err := api.Quotas.GetQuota(ctx, req)
		if err != nil {
			return err
		}
		return a.printQuotaSet(w, set)
	})
}

func (a *app) printQuotaSet(w io.Writer, set *tarnv1.QuotaSet) error {
	if a.Output != "table" {
		return printMachine(a, w, set)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "LIMIT OF\tLIMIT\tIN USE")
	for _, key := range slices.Sorted(maps.Keys(set.GetQuotas())) {
		q := set.GetQuotas()[key]
		limit := strconv.FormatInt(q.GetLimit(), 10)
		if q.GetLimit() < 0 {
			limit = "unlimited"
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\n", key, limit, q.GetInUse())
	}
	return tw.Flush()
}

type quotaSet struct {
	quotaTarget
	Shares            *int64 `help:"Number of shares; -1 is unlimited, here and below."`
	Gigabytes         *int64 `help:"Sum of share sizes."`
	Snapshots         *int64 `help:"Number of snapshots."`
	SnapshotGigabytes *int64 `help:"Sum of snapshot sizes."`
	ShareReplicas     *int64 `help:"Number of replicas."`
	ReplicaGigabytes  *int64 `help:"Sum of replica sizes."`
	PerShareGigabytes *int64 `help:"Largest size of one share."`
}

func (c *quotaSet) limits() map[string]int64 {
	given := map[string]*int64{
		"shares": c.Shares, "gigabytes": c.Gigabytes, "snapshots": c.Snapshots, "snapshot_gigabytes": c.SnapshotGigabytes,
		"share_replicas": c.ShareReplicas, "replica_gigabytes": c.ReplicaGigabytes, "per_share_gigabytes": c.PerShareGigabytes,
	}
	limits := map[string]int64{}
	for key, value := range given {
		if value != nil {
			limits[key] = *value
		}
	}
	return limits
}

func (c *quotaSet) Run(ctx context.Context, a *app, api *client.Client) error {
	limits := c.limits()
	if len(limits) == 0 {
		return usage("nothing to set").next("give at least one limit; see tarn quota set --help")
	}
	target, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	project := target.GetProjectId()
	switch project {
	case "":
		project = label(a.Project, "default")
	case "defaults":
		project = ""
	}
	set, err := api.Quotas.UpdateQuota(ctx, &tarnv1.QuotaLimits{
		ProjectId: project, UserId: target.GetUserId(), ShareTypeId: target.GetShareTypeId(), Limits: limits,
	})
	if err != nil {
		return err
	}
	return a.printQuotaSet(a.stdout, set)
}

type quotaReset struct{ quotaTarget }

func (c *quotaReset) Run(ctx context.Context, a *app, api *client.Client) error {
	req, err := c.request(ctx, a)
	if err != nil {
		return err
	}
	if _, err := api.Quotas.ResetQuota(ctx, req); err != nil {
		return err
	}
	a.printResult(req.GetProjectId(), "quota reset to the defaults")
	return nil
}
