package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// globals are the flags that every command takes.
type globals struct {
	Config  string `help:"Client configuration (client.toml)." env:"TARN_CONFIG" placeholder:"FILE"`
	Project string `help:"Project to work in; operators only." env:"TARN_PROJECT" placeholder:"ID"`
	Output  string `short:"o" help:"Output format: ${enum}." enum:"table,json,yaml" default:"table"`
	Because string `help:"Why, for the audit log." placeholder:"TEXT"`
	Quiet   bool   `short:"q" help:"Print ids only."`
	Verbose bool   `short:"v" help:"Log each call's attempts to stderr."`
}

// root is the grammar of the command line.
type root struct {
	globals

	ShareType shareTypeCmd `cmd:"" help:"Named sets of extra specs that placement and replication follow."`
	Share     shareCmd     `cmd:"" help:"File shares."`
	Replica   replicaCmd   `cmd:"" help:"Copies of a share in other places."`
	Snapshot  snapshotCmd  `cmd:"" help:"Snapshots of a share, on all its replicas."`
	Access    accessCmd    `cmd:"" help:"Who may reach a share."`
	Quota     quotaCmd     `cmd:"" help:"Limits of projects, users and share types."`
	Message   messageCmd   `cmd:"" help:"Why something asynchronous failed."`

	Host             hostCmd     `cmd:"" help:"Storage hosts."`
	Pool             poolCmd     `cmd:"" help:"Pools as the scheduler sees them."`
	AvailabilityZone zoneCmd     `cmd:"" name:"availability-zone" help:"Availability zones."`
	User             userCmd     `cmd:"" help:"Users with a token, and revoked certificates."`
	Operator         operatorCmd `cmd:"" help:"The cluster's own administration."`
	Status           statusCmd   `cmd:"" help:"Is every share where it should be, and how far behind?"`

	Pki  pkiCmd  `cmd:"" help:"An offline certificate authority."`
	Join joinCmd `cmd:"" help:"Turn a join token into certificate files."`

	Controlplane controlplaneCmd `cmd:"" help:"Run a control-plane node."`
	Agent        agentCmd        `cmd:"" help:"Run the agent of a storage host."`
	Deadman      deadmanCmd      `cmd:"" hidden:"" help:"End the service of datasets whose lease ran out; started by the agent."`
	Helper       helperCmd       `cmd:"" help:"What takes root's rights, for an agent that has none."`
	Conf         configCmd       `cmd:"" name:"config" help:"Configuration files."`

	Dev        devCmd        `cmd:"" help:"A cluster of real processes on this machine."`
	Demo       demoCmd       `cmd:"" help:"Walk through what tarn does, checking every step."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
	Completion completionCmd `cmd:"" help:"Print a shell completion script."`
	Complete   completeCmd   `cmd:"" name:"__complete" hidden:"" help:"Print candidates for a command line."`
}

const description = `tarn replicates file shares between ZFS storage hosts.

Names or ids are accepted everywhere. A replica can be given as SHARE/ZONE, SHARE/HOST or SHARE/active.
Exit codes: 0 done, 1 failed, 2 wrong usage or invalid value, 3 not found, 4 refused, 5 unavailable or timed out, 6 not allowed, 130 interrupted.`

// Run executes one command line and returns its exit code. args lacks the
// program's name; env is in the form of os.Environ. Cancelling ctx ends daemons
// gracefully and everything else at once. It never calls os.Exit.
func Run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return run(ctx, args, newApp(env, stdin, stdout, stderr))
}

func run(ctx context.Context, args []string, a *app) int {
	var grammar root
	exited := -1
	parser, err := newParser(&grammar, a, func(code int) { exited = code })
	if err != nil {
		fmt.Fprintln(a.stderr, "tarn:", err)
		return exitFailure
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 {
		return exited
	}
	if err != nil {
		return a.report(usage("%w", err).next("tarn %s--help", commandPath(parsed, err)))
	}
	a.globals = grammar.globals
	a.parser = parser
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.BindToProvider(a.client)
	if err == nil {
		err = parsed.Run(a)
	}
	// Also of a command that failed half-way.
	if untold := a.printResults(); err == nil {
		err = untold
	}
	if err != nil {
		return a.report(interrupted(ctx, err))
	}
	return exitOK
}

func newParser(grammar *root, a *app, exit func(int)) (*kong.Kong, error) {
	parser, err := kong.New(grammar,
		kong.Name("tarn"),
		kong.Description(description),
		kong.Writers(a.stdout, a.stderr),
		kong.Exit(exit),
		// A negative number is a value that a rule of the server refuses, not a flag.
		kong.WithHyphenPrefixedParameters(true),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 110}),
		kong.Resolvers(envResolver(a.env)),
	)
	if err != nil {
		return nil, fmt.Errorf("build command line: %w", err)
	}
	return parser, nil
}

// envResolver gives flags their value from the environment that Run was given
// rather than the process's own.
func envResolver(env map[string]string) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		for _, name := range flag.Tag.Envs {
			if v, ok := env[name]; ok {
				return v, nil
			}
		}
		return nil, nil
	})
}

// commandPath is how far the words made sense, for pointing at the right help.
func commandPath(parsed *kong.Context, err error) string {
	if pe, ok := err.(*kong.ParseError); ok && parsed == nil {
		parsed = pe.Context
	}
	if parsed == nil {
		return ""
	}
	var words []string
	for _, p := range parsed.Path {
		if p.Command != nil {
			words = append(words, p.Command.Name)
		}
	}
	if len(words) == 0 {
		return ""
	}
	return strings.Join(words, " ") + " "
}
