package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type replicaDivergent struct {
	List  divergentList  `cmd:"" help:"List data that were kept aside when histories forked."`
	Show  divergentShow  `cmd:"" help:"Show one copy with its snapshots, and how to read it on its host."`
	Purge divergentPurge `cmd:"" help:"Destroy a copy for good; operators only."`
}

var copyView = view[*tarnv1.DivergentCopy]{
	id: func(c *tarnv1.DivergentCopy) string { return guidText(c.GetGuid()) },
	list: []column[*tarnv1.DivergentCopy]{
		{"GUID", func(c *tarnv1.DivergentCopy) string { return guidText(c.GetGuid()) }},
		{"SHARE", (*tarnv1.DivergentCopy).GetShareId},
		{"REPLICA", (*tarnv1.DivergentCopy).GetReplicaId},
		{"EPOCH", func(c *tarnv1.DivergentCopy) string { return strconv.FormatUint(c.GetEpoch(), 10) }},
		{"USED", func(c *tarnv1.DivergentCopy) string { return bytesText(c.GetUsedBytes()) }},
		{"SINCE", func(c *tarnv1.DivergentCopy) string { return stampText(c.GetCreatedAt()) }},
		{"HOST", (*tarnv1.DivergentCopy).GetHost},
		{"STATE", copyStateText},
	},
}

func copyStateText(c *tarnv1.DivergentCopy) string {
	state := "kept"
	if c.GetOrphaned() {
		state = "kept, its replica is gone"
	}
	if c.GetPurge() != nil {
		state = "being purged"
		if c.GetPurge().GetError() != "" {
			state += ": " + c.GetPurge().GetError()
		}
	}
	return state
}

type divergentList struct {
	Of  string `arg:"" optional:"" help:"Share (name or id) or replica (id, SHARE/ZONE, SHARE/HOST); all of the project if left out."`
	All bool   `help:"Of all projects, and of replicas that are gone; operators only."`
	watchFlags
}

func (c *divergentList) Run(ctx context.Context, a *app, api *client.Client) error {
	reqs, err := c.requests(ctx, a)
	if err != nil {
		return err
	}
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		found, err := firstCopies(ctx, api, reqs)
		if err != nil {
			return err
		}
		if len(found.GetSilentHosts()) > 0 && c.All {
			fmt.Fprintf(a.stderr, "not told yet what they have of replicas that are gone: %s\n", strings.Join(found.GetSilentHosts(), ", "))
		}
		return copyView.printList(a, w, found.GetDivergentCopies())
	})
}

// firstCopies asks until one request finds something. One that names nothing is no
// error as long as another one names something.
func firstCopies(ctx context.Context, api *client.Client, reqs []*tarnv1.ListDivergentCopiesRequest) (found *tarnv1.ListDivergentCopiesResponse, err error) {
	for _, req := range reqs {
		next, failed := api.Replicas.ListDivergentCopies(ctx, req)
		switch {
		case failed == nil && len(next.GetDivergentCopies()) > 0:
			return next, nil
		case failed == nil:
			found, err = next, nil
		case found == nil:
			err = failed
		}
	}
	return found, err
}

// requests are tried one after the other: an id may be a share's or a replica's.
func (c *divergentList) requests(ctx context.Context, a *app) ([]*tarnv1.ListDivergentCopiesRequest, error) {
	if id, ok := asID(c.Of); ok {
		return []*tarnv1.ListDivergentCopiesRequest{{ReplicaId: id, AllProjects: c.All}, {ShareId: id, AllProjects: c.All}}, nil
	}
	req := &tarnv1.ListDivergentCopiesRequest{AllProjects: c.All}
	var err error
	switch {
	case c.Of == "":
	case strings.Contains(c.Of, "/"):
		req.ReplicaId, err = a.replicaID(ctx, c.Of)
	default:
		req.ShareId, err = a.shareID(ctx, c.Of)
	}
	return []*tarnv1.ListDivergentCopiesRequest{req}, err
}

// copyArgs name one copy.
type copyArgs struct {
	Copy string `arg:"" help:"GUID, as listed."`
	Host string `help:"Name or id of the host, where two have a copy of that GUID." placeholder:"HOST"`
}

func (c *copyArgs) resolve(ctx context.Context, a *app) (guid uint64, hostID string, err error) {
	guid, err = strconv.ParseUint(c.Copy, 10, 64)
	if err != nil || guid == 0 {
		return 0, "", usage("%q is no GUID", c.Copy).next("`tarn replica divergent list` shows them")
	}
	if c.Host != "" {
		hostID, err = a.hostID(ctx, c.Host)
	}
	return guid, hostID, err
}

type divergentShow struct {
	copyArgs
	maxWaitFlags
}

var copyDetailView = view[*tarnv1.DivergentDetail]{
	id: func(d *tarnv1.DivergentDetail) string { return guidText(d.GetCopy().GetGuid()) },
	detail: []column[*tarnv1.DivergentDetail]{
		{"GUID", func(d *tarnv1.DivergentDetail) string { return guidText(d.GetCopy().GetGuid()) }},
		{"Share", func(d *tarnv1.DivergentDetail) string { return d.GetCopy().GetShareId() }},
		{"Replica", func(d *tarnv1.DivergentDetail) string { return d.GetCopy().GetReplicaId() }},
		{"State", func(d *tarnv1.DivergentDetail) string { return copyStateText(d.GetCopy()) }},
		{"Written under epoch", func(d *tarnv1.DivergentDetail) string { return strconv.FormatUint(d.GetCopy().GetEpoch(), 10) }},
		{"Put aside", func(d *tarnv1.DivergentDetail) string { return stampText(d.GetCopy().GetCreatedAt()) }},
		{"Used by it alone", func(d *tarnv1.DivergentDetail) string { return bytesText(d.GetCopy().GetUsedBytes()) }},
		{"Host", func(d *tarnv1.DivergentDetail) string { return d.GetCopy().GetHost() }},
		{"Dataset", func(d *tarnv1.DivergentDetail) string { return d.GetCopy().GetDataset() }},
		{"Parted from", baseText},
		{"Keeps", (*tarnv1.DivergentDetail).GetOrigin},
		{"Snapshots", copySnapshotsText},
		{"Reading it", func(d *tarnv1.DivergentDetail) string { return strings.Join(d.GetReading(), "\n") }},
	},
}

func baseText(d *tarnv1.DivergentDetail) string {
	if d.GetCopy().GetBaseGuid() == 0 {
		return "nothing in common with the share's history, or not known"
	}
	return "snapshot " + guidText(d.GetCopy().GetBaseGuid())
}

func copySnapshotsText(d *tarnv1.DivergentDetail) string {
	var lines []string
	if n := int(d.GetTotal()) - len(d.GetSnapshots()); n > 0 {
		lines = append(lines, fmt.Sprintf("(%d older ones)", n))
	}
	for _, s := range d.GetSnapshots() {
		line := fmt.Sprintf("%s  %s  %s", stampText(s.GetCreatedAt()), guidText(s.GetGuid()), s.GetName())
		if len(s.GetHolds()) > 0 {
			line += "  held " + strings.Join(s.GetHolds(), ", ")
		}
		if len(s.GetClones()) > 0 {
			line += "  origin of " + strings.Join(s.GetClones(), ", ")
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func (c *divergentShow) Run(ctx context.Context, a *app, api *client.Client) error {
	guid, hostID, err := c.resolve(ctx, a)
	if err != nil {
		return err
	}
	d, err := api.Replicas.GetDivergentCopy(ctx, &tarnv1.GetDivergentCopyRequest{Guid: guid, HostId: hostID, MaxWait: c.wait()})
	if err != nil {
		return err
	}
	return copyDetailView.printOne(a, a.stdout, d)
}

type divergentPurge struct {
	copyArgs
	maxWaitFlags
	waitFlags
	Reason string `required:"" help:"Why these data may go; kept with the order."`
	Yes    bool   `help:"Do not ask."`
}

func (c *divergentPurge) Run(ctx context.Context, a *app, api *client.Client) error {
	guid, hostID, err := c.resolve(ctx, a)
	if err != nil {
		return err
	}
	d, err := api.Replicas.GetDivergentCopy(ctx, &tarnv1.GetDivergentCopyRequest{Guid: guid, HostId: hostID, MaxWait: c.wait()})
	if connect.CodeOf(err) == connect.CodeDeadlineExceeded && c.Yes {
		fmt.Fprintf(a.stderr, "what is in the copy is not known now: %s\n", sentence(err))
	} else if err != nil {
		return err
	} else if err := c.confirm(a, d); err != nil {
		return err
	}
	found, err := api.Replicas.PurgeDivergentCopy(ctx, &tarnv1.PurgeDivergentCopyRequest{Guid: guid, HostId: hostID, Reason: c.Reason})
	if err != nil {
		return err
	}
	if c.Wait {
		return c.awaitPurged(ctx, a, found)
	}
	return copyView.printOne(a, a.stdout, found)
}

// confirm says what will be lost, and asks.
func (c *divergentPurge) confirm(a *app, d *tarnv1.DivergentDetail) error {
	fmt.Fprintf(a.stderr, "This destroys %s on %s for good: %d snapshots with all that was written under epoch %d and is nowhere else, %s.\n",
		d.GetCopy().GetDataset(), d.GetCopy().GetHost(), d.GetTotal(), d.GetCopy().GetEpoch(), bytesText(d.GetCopy().GetUsedBytes()))
	for _, s := range d.GetSnapshots() {
		fmt.Fprintf(a.stderr, "  %s  %s  %s\n", stampText(s.GetCreatedAt()), guidText(s.GetGuid()), printable(s.GetName()))
	}
	if c.Yes {
		return nil
	}
	fmt.Fprint(a.stderr, "Type the GUID to go on: ")
	var answer string
	if a.stdin != nil {
		answer, _ = bufio.NewReader(a.stdin).ReadString('\n')
	}
	if strings.TrimSpace(answer) != guidText(d.GetCopy().GetGuid()) {
		return usage("nothing was purged").next("type the GUID when asked, or give --yes")
	}
	return nil
}

// awaitPurged waits until the host has confirmed.
func (c *divergentPurge) awaitPurged(ctx context.Context, a *app, purged *tarnv1.DivergentCopy) error {
	err := a.await(ctx, c.waitFlags, "purge", func(ctx context.Context) (progress, error) {
		found, err := a.api.Replicas.ListDivergentCopies(ctx, &tarnv1.ListDivergentCopiesRequest{AllProjects: true})
		if err != nil {
			return progress{}, err
		}
		for _, d := range found.GetDivergentCopies() {
			if d.GetGuid() == purged.GetGuid() && d.GetHostId() == purged.GetHostId() {
				return progress{text: copyStateText(d), fraction: -1}, nil
			}
		}
		// Of a replica that is gone only its host knows: silence is no confirmation.
		host, _, _ := strings.Cut(purged.GetHost(), "@")
		if silent := found.GetSilentHosts(); slices.Contains(silent, host) || host == "" && len(silent) > 0 {
			return progress{text: "not told yet what they have: " + strings.Join(silent, ", "), fraction: -1}, nil
		}
		return progress{done: true, text: "nothing of it is left", fraction: 1}, nil
	})
	if err != nil {
		return err
	}
	a.printResult(guidText(purged.GetGuid()), "purged %s", guidText(purged.GetGuid()))
	return nil
}
