package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"tarn/agent/export"
	"tarn/agent/lease"
	"tarn/agent/privsep"
)

// HelperOptions are what a helper is told besides its configuration.
type HelperOptions struct {
	// Deadman is the program that calls RunDeadmanWithin, and its first arguments; the
	// directory and the datasets are added.
	Deadman []string
	// DeadmanOnly starts dead-men and does nothing else.
	DeadmanOnly bool
	// Serving, if set, is called when calls are taken.
	Serving func()
}

// RunHelper is the whole of the helper's process: it does with root's rights what an
// agent that runs as cfg.Helper.User may ask for, until ctx ends. cfg is the agent's
// own configuration, which that user must not be able to write (CheckHelperFile).
func RunHelper(ctx context.Context, cfg Config, o HelperOptions) error {
	log := cfg.Logger
	if log == nil {
		log = cfg.Log.New(os.Stderr)
	}
	if o.Serving == nil {
		o.Serving = func() {}
	}
	if cfg.Helper.Socket == "" {
		// No error: a service manager starts helper and agent together.
		log.Info("helper.socket is not set: this agent does everything itself, and the helper nothing")
		o.Serving()
		<-ctx.Done()
		return nil
	}
	uid, err := userID(cfg.Helper.User)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Helper.DataDir, 0o700); err != nil {
		return fmt.Errorf("create the helper's directory: %w", err)
	}
	// Its dead-men use the watchdog or the packet filter, with root's rights.
	if err := lease.Configure(cfg.Helper.DataDir, cfg.Fence.backing()); err != nil {
		return err
	}
	serve := privsep.Config{Policy: cfg.policy(), UID: uid, DeadmanOnly: o.DeadmanOnly, Deadman: cfg.deadman(o.Deadman), Logger: log}
	group, ctx := errgroup.WithContext(ctx)
	socket := cfg.Helper.DeadmanSocket
	if !o.DeadmanOnly {
		socket = cfg.Helper.Socket
		exporter, err := helperExports(ctx, cfg, log)
		if err != nil {
			return err
		}
		serve.Exporter = exporter
		group.Go(func() error { return exporter.Run(ctx) })
	}
	listener, err := privsep.Listen(ctx, socket, uid)
	if err != nil {
		return err
	}
	o.Serving()
	log.Info("helper serves", "socket", socket, "uid", uid, "policy", serve.Policy)
	group.Go(func() error { return privsep.NewServer(serve).Run(ctx, listener) })
	return group.Wait()
}

// helperExports opens the servers of shares in the helper, and leaves word for the dead-man.
func helperExports(ctx context.Context, cfg Config, log *slog.Logger) (Exporter, error) {
	cfg.DataDir = cfg.Helper.DataDir
	exporter, err := openExports(cfg, nil, log)
	if err != nil {
		return nil, err
	}
	return exporter, export.Succeed(ctx, cfg.DataDir, exporter)
}

// policy is what of the configuration the helper holds calls against.
func (c Config) policy() privsep.Policy {
	p := privsep.Policy{Base: c.Base, KeyDir: c.Encryption.KeyDir}
	for _, pool := range c.Pools {
		p.Pools = append(p.Pools, privsep.Pool{Name: pool.Name, Mountpoint: pool.Mountpoint})
	}
	return p
}

// deadman is the command of a dead-man that fences below the base and nowhere else.
func (c Config) deadman(program []string) []string {
	if len(program) == 0 {
		return nil
	}
	command := append([]string{}, program...)
	for _, pool := range c.Pools {
		command = append(command, "--within="+pool.Name+"/"+c.Base)
	}
	return append(command, c.Helper.DataDir)
}

// startDeadman has the helper start the dead-man, with rights that the agent lacks; nil
// without a helper.
func (h HelperConfig) startDeadman() func(orders, answers *os.File) (lease.Process, error) {
	if h.DeadmanSocket == "" {
		return nil
	}
	return func(orders, answers *os.File) (lease.Process, error) {
		return privsep.Client{Socket: h.DeadmanSocket}.StartDeadman(orders, answers)
	}
}

// userID takes a name or a number. Root needs no helper.
func userID(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("helper.user: %w", err)
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}

// CheckHelperFile refuses a configuration that anybody but root can change: it says what
// root's helper does.
func CheckHelperFile(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s must belong to root and be writable by nobody else: chown root %s; chmod go-w %s", file, file, file)
	}
	return nil
}

// RunDeadmanWithin is RunDeadman for a helper, which does not trust who gives the orders:
// only datasets of ZFS at or below those named are fenced.
func RunDeadmanWithin(dir string, within []string, log *slog.Logger) error {
	clients := export.NewSeverer(dir)
	return lease.DeadmanMain(dir, func(t lease.Target) error {
		for _, root := range within {
			if t.Engine == StorageZFS && (t.Dataset == root || strings.HasPrefix(t.Dataset, root+"/")) {
				return fence(clients, t)
			}
		}
		return fmt.Errorf("dataset %s is not below %s: it is not this agent's", path.Clean(t.Dataset), strings.Join(within, ", "))
	}, log)
}
