package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/BurntSushi/toml"

	"tarn/agent"
	"tarn/controlplane"
	"tarn/metrics"
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
	if err := metrics.NewBridge(node.Registry()).Install(); err != nil {
		return err
	}
	return a.supervised(ctx, node)
}

type agentCmd struct {
	File string `arg:"" optional:"" name:"config" help:"agent.toml; or --config." type:"path"`
}

func (c *agentCmd) Run(ctx context.Context, a *app) error {
	path, err := daemonFile(a, c.File)
	if err != nil {
		return err
	}
	cfg, err := agent.LoadConfig(path)
	if err != nil {
		return usage("%w", err).next("tarn config check %s", path)
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	cfg.DeadmanCommand = []string{binary, "deadman"}
	cfg.Version, cfg.Revision = buildInfo()
	node, err := agent.New(cfg)
	if err != nil {
		return err
	}
	if err := metrics.NewBridge(node.Registry()).Install(); err != nil {
		return err
	}
	return a.supervised(ctx, node)
}

type helperCmd struct {
	File        string `arg:"" optional:"" name:"config" help:"agent.toml; or --config." type:"path"`
	DeadmanOnly bool   `help:"Start dead-men, on helper.deadman_socket, and do nothing else."`
}

// Run serves an agent that runs as an ordinary user.
func (c *helperCmd) Run(ctx context.Context, a *app) error {
	path, err := daemonFile(a, c.File)
	if err != nil {
		return err
	}
	cfg, err := agent.LoadConfig(path)
	if err != nil {
		return usage("%w", err).next("tarn config check %s", path)
	}
	if err := agent.CheckHelperFile(path); err != nil {
		return usage("%w", err)
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	serving, err := a.up()
	if err != nil {
		return err
	}
	return agent.RunHelper(ctx, cfg, agent.HelperOptions{Deadman: []string{binary, "deadman"}, DeadmanOnly: c.DeadmanOnly, Serving: serving})
}

type deadmanCmd struct {
	Dir    string   `arg:"" help:"The agent's data directory."`
	Within []string `help:"Fence only these datasets and what is below them; repeatable." sep:"none"`
}

// Run does not heed ctx: signals to end are for the agent, and the dead-man's
// whole point is to be there after it.
func (c *deadmanCmd) Run(a *app) error {
	log := slog.New(slog.NewTextHandler(a.stderr, nil))
	if len(c.Within) > 0 {
		return agent.RunDeadmanWithin(c.Dir, c.Within, log)
	}
	return agent.RunDeadman(c.Dir, log)
}

type configCmd struct {
	Check  configCheck  `cmd:"" help:"Check controlplane.toml, agent.toml, client.toml or policy.yaml."`
	Policy configPolicy `cmd:"" help:"Print a policy.yaml with every action and the rule that holds without a file."`
}

type configCheck struct {
	File string `arg:"" help:"The file." type:"path"`
	Kind string `help:"controlplane, agent, client or policy; told by the keys or the file's name if left out." enum:"controlplane,agent,client,policy," default:""`
}

type configPolicy struct{}

func (c *configPolicy) Run(a *app) error {
	for _, action := range controlplane.PolicyActions() {
		note := ""
		if action.Reason {
			note = "  # a reason is required"
		}
		if _, err := fmt.Fprintf(a.stdout, "%q: %q%s\n", action.Name, action.Allow, note); err != nil {
			return err
		}
	}
	return nil
}

func (c *configCheck) Run(a *app) error {
	kind := c.Kind
	if kind == "" {
		var err error
		if kind, err = kindOfFile(c.File); err != nil {
			return usage("%w", err)
		}
	}
	if err := checkConfig(kind, c.File); err != nil {
		return usage("%w", err).next("docs/config.md lists every key")
	}
	a.printResult(c.File, "%s: a valid %s configuration", c.File, kind)
	return nil
}

// kindOfFile tells whose configuration a file is by a key that only one kind has.
func kindOfFile(path string) (string, error) {
	if ext := filepath.Ext(path); ext == ".yaml" || ext == ".yml" {
		return "policy", nil
	}
	var any map[string]any
	if _, err := toml.DecodeFile(path, &any); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	for _, k := range []struct{ key, kind string }{
		{"addresses", "client"}, {"pki", "client"}, {"availability_zone", "agent"}, {"pool", "agent"},
		{"bootstrap_expect", "controlplane"}, {"raft", "controlplane"}, {"hosts", "controlplane"},
	} {
		if _, ok := any[k.key]; ok {
			return k.kind, nil
		}
	}
	return "", fmt.Errorf("%s: its keys do not tell what it configures: give --kind", path)
}

func checkConfig(kind, path string) error {
	var err error
	switch kind {
	case "controlplane":
		_, err = controlplane.LoadConfig(path)
	case "agent":
		_, err = agent.LoadConfig(path)
	case "policy":
		err = controlplane.CheckPolicy(path)
	default:
		_, err = LoadClientConfig(path)
	}
	return err
}
