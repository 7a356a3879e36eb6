package cli

import (
	"context"
	"errors"
	"fmt"

	"tarn/controlplane"
)

type raftRecover struct {
	Config      string `arg:"" name:"config" help:"controlplane.toml of the stopped survivor." type:"path"`
	LostForGood bool   `help:"The majority is lost for good, and this node knows the most of those that are left."`
}

// Run tells what the node knows; only with the flag it changes anything.
func (c *raftRecover) Run(ctx context.Context, a *app) error {
	cfg, err := controlplane.LoadConfig(c.Config)
	if err != nil {
		return usage("%w", err).next("tarn config check %s", c.Config)
	}
	cfg.Logger = a.logger()
	if !c.LostForGood {
		return c.inspect(a, cfg)
	}
	s, err := controlplane.Recover(ctx, cfg)
	if errors.Is(err, controlplane.ErrClusterRuns) {
		return fail(exitRefused, "%w", err).next("stop the other survivors; with a majority of them nothing needs to be recovered")
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "node %s is the only member now, with everything up to entry %d of term %d\n", s.NodeID, s.LastIndex, s.LastTerm)
	fmt.Fprintf(a.stdout, "next: tarn controlplane %s; then start the others with empty data directories and join = [%q]\n", c.Config, cfg.Advertise)
	return nil
}

func (c *raftRecover) inspect(a *app, cfg controlplane.Config) error {
	s, err := controlplane.Inspect(cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "node %s: last entry %d of term %d\n", s.NodeID, s.LastIndex, s.LastTerm)
	for _, m := range s.Servers {
		fmt.Fprintf(a.stdout, "member %s at %s\n", m.ID, m.Addr)
	}
	return fail(exitRefused, "nothing was changed").next("compare with the other survivors: the highest term, then the highest entry, knows the most; " +
		"repeat there with --lost-for-good if the majority never comes back")
}
