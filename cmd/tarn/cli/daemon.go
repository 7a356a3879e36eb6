package cli

import (
	"context"

	"tarn/controlplane"
)

type controlplaneCmd struct {
	File string `arg:"" optional:"" name:"config" help:"controlplane.toml; or --config." type:"path"`
}

// daemonFile is the argument, else the value of --config.
func daemonFile(a *app, arg string) (string, error) {
	if arg != "" {
		return arg, nil
	}
	if a.Config == "" {
		return "", usage("which configuration?").next("give --config FILE; docs/config.md lists every key")
	}
	return a.Config, nil
}

func (c *controlplaneCmd) Run(ctx context.Context, a *app) error {
	path, err := daemonFile(a, c.File)
	if err != nil {
		return err
	}
	cfg, err := controlplane.LoadConfig(path)
	if err != nil {
		return usage("%w", err).next("tarn config check %s", path)
	}
	cfg.Version, cfg.Revision = buildInfo()
	node, err := controlplane.New(cfg)
	if err != nil {
		return err
	}
	return node.Run(ctx)
}
