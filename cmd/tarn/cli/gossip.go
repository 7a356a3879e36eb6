package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type gossipCmd struct {
	Show   gossipShow   `cmd:"" help:"Show the ring's keys by fingerprint, and who has confirmed them."`
	Rotate gossipRotate `cmd:"" help:"Replace the key: each step waits until every member has confirmed the one before."`
}

type gossipShow struct{ watchFlags }

func (c *gossipShow) Run(ctx context.Context, a *app, api *client.Client) error {
	return a.repeat(ctx, c.watchFlags, func(ctx context.Context, w io.Writer) error {
		keys, err := api.Operator.GetGossipKeys(ctx, &tarnv1.GetGossipKeysRequest{})
		if err != nil {
			return err
		}
		return printGossip(a, w, keys)
	})
}

type gossipRotate struct{ waitFlags }

// Run begins a rotation; the leader goes on with it, whoever that is, and whatever happens
// to this command.
func (c *gossipRotate) Run(ctx context.Context, a *app, api *client.Client) error {
	keys, err := api.Operator.RotateGossipKey(ctx, &tarnv1.RotateGossipKeyRequest{})
	if err != nil {
		return err
	}
	if c.Wait {
		err = a.await(ctx, c.waitFlags, "rotation", func(ctx context.Context) (progress, error) {
			if keys, err = api.Operator.GetGossipKeys(ctx, &tarnv1.GetGossipKeysRequest{}); err != nil {
				return progress{}, err
			}
			return gossipProgress(keys), nil
		})
	}
	if err != nil {
		return err
	}
	return printGossip(a, a.stdout, keys)
}

func gossipProgress(keys *tarnv1.GossipKeys) progress {
	required, confirmed := 0, 0
	for _, m := range keys.GetMembers() {
		if m.GetRequired() {
			required++
			if m.GetConfirmed() {
				confirmed++
			}
		}
	}
	text := fmt.Sprintf("%s, confirmed by %d of %d", enumText(keys.GetPhase()), confirmed, required)
	if waits := keys.GetWaitsFor(); len(waits) > 0 {
		text += "; waits for " + printable(waits[0])
	}
	done := keys.GetPhase() == tarnv1.GossipPhase_GOSSIP_PHASE_SETTLED && len(keys.GetWaitsFor()) == 0
	return progress{done: done, text: text, fraction: float64(confirmed) / float64(max(1, required))}
}

var gossipView = view[*tarnv1.GossipMember]{
	id: (*tarnv1.GossipMember).GetId,
	list: []column[*tarnv1.GossipMember]{
		{"ID", (*tarnv1.GossipMember).GetId},
		{"NAME", func(m *tarnv1.GossipMember) string { return label(m.GetName(), "-") }},
		{"ROLE", (*tarnv1.GossipMember).GetRole},
		{"ADDRESS", func(m *tarnv1.GossipMember) string { return label(m.GetAddress(), "-") }},
		{"KEYS", gossipConfirmed},
	},
}

func gossipConfirmed(m *tarnv1.GossipMember) string {
	switch {
	case m.GetConfirmed() && !m.GetRunning():
		return "takes no part"
	case m.GetConfirmed():
		return "confirmed"
	case !m.GetRequired():
		return "down: gets them when it is back"
	}
	return label(m.GetError(), "others than the leader's")
}

func printGossip(a *app, w io.Writer, keys *tarnv1.GossipKeys) error {
	if a.Output != "table" && !a.Quiet {
		return printMachine(a, w, keys)
	}
	if !a.Quiet {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(tw, "number\t%d\n", keys.GetNumber())
		fmt.Fprintf(tw, "phase\t%s\n", enumText(keys.GetPhase()))
		fmt.Fprintf(tw, "keys\t%s\n", label(strings.Join(keys.GetFingerprints(), " "), "none"))
		if keys.GetBegunBy() != "" {
			fmt.Fprintf(tw, "rotated\t%s by %s\n", stampText(keys.GetBegunAt()), printable(keys.GetBegunBy()))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	return gossipView.printList(a, w, keys.GetMembers())
}
