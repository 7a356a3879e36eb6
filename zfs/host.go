package zfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// Config says how a Host reaches ZFS. Pools is required.
type Config struct {
	// Pools are all that the Host looks at or changes; everything else on the
	// machine does not exist for it.
	Pools []string
	// ZFS and Zpool are absolute paths of the tools; empty: found in /usr/sbin, /sbin
	// and the agent's PATH.
	ZFS, Zpool string
	// Deadline of each command that moves no stream. A busy pool may take tens of
	// seconds. 0: 2 minutes.
	Deadline time.Duration
	// ReceivePatience is how long zfs receive may take nothing of a stream that waits for
	// it: a pool that deletes very much is busy with one transaction group for minutes.
	// 0: 10 minutes.
	ReceivePatience time.Duration
	// UserProperties that Dataset.User shows. Listings are quicker and one process
	// less on old versions when they are named. nil: all.
	UserProperties []string
	// Observe, if set, is told of each process that ended. It must not block.
	Observe func(Call)
	// Launcher starts the tools instead of this process. ZFS and Zpool are then its own
	// choice. nil: none.
	Launcher Launcher
	Logger   *slog.Logger
}

// Host drives zfs(8) and zpool(8) of this machine. All methods are safe for
// concurrent use, classify their errors as *Error and honour ctx. It keeps nothing
// but what the tools say about themselves.
type Host struct {
	runner
	log   *slog.Logger
	pools []string
	user  []string
	build build
	held  sendingTable
	// listings are shared by callers that ask for versions at the same time.
	listings together[[]Version]
	// named are shared by callers that look snapshots up at the same time.
	named together[Version]
	// present tells callers whose datasets are missing if the pool is there.
	present together[bool]
	// receiving are the streams that come in now: after each, its versions are listed.
	receiving inFlight
	// stall is Config.ReceivePatience.
	stall time.Duration
	// sends and receives bound streams on zfs-fuse; nil elsewhere.
	sends, receives *slots

	mu       sync.Mutex
	features map[string]poolFeatures // by pool, of the pools seen so far
}

// Open finds the tools and probes what they can do. The pools need not be imported
// yet. It fails with ErrToolMissing, or ErrPoolUnavailable when ZFS does not run.
func Open(ctx context.Context, cfg Config) (*Host, error) {
	h := &Host{log: cfg.Logger, pools: slices.Clone(cfg.Pools), user: slices.Clone(cfg.UserProperties), features: map[string]poolFeatures{}}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Pools) == 0 {
		return nil, &Error{Op: "open", Object: "host", Class: ErrInvalid, Text: "no pools are configured"}
	}
	for _, p := range cfg.Pools {
		if err := ValidateComponent(p); err != nil {
			return nil, &Error{Op: "open", Object: p, Class: ErrInvalid, Text: err.Error()}
		}
	}
	for _, p := range cfg.UserProperties {
		if err := ValidateUserProperty(p, ""); err != nil {
			return nil, &Error{Op: "open", Object: p, Class: ErrInvalid, Text: err.Error()}
		}
	}
	h.deadline, h.observe, h.launcher = cfg.Deadline, cfg.Observe, cfg.Launcher
	if h.deadline == 0 {
		h.deadline = 2 * time.Minute
	}
	if h.stall = cfg.ReceivePatience; h.stall <= 0 {
		h.stall = receivePatience
	}
	h.listings = together[[]Version]{run: h.listTogether, limit: commandLimit, deadline: 2 * h.deadline, gather: h.receiving.gather}
	h.present = together[bool]{run: h.readPresent, limit: commandLimit, deadline: 2 * h.deadline}
	h.named = together[Version]{run: h.readNamed, limit: commandLimit, deadline: 2 * h.deadline, gather: h.receiving.gather}
	var err error
	if err := h.findTools(cfg); err != nil {
		return nil, err
	}
	if h.build, err = h.probe(ctx); err != nil {
		return nil, err
	}
	h.turns = newTurns(kernelTurns)
	if !h.build.bookmarks {
		h.turns = newTurns(fuseTurns)
		h.sends, h.receives = newSlots("send", fuseStreams), newSlots("receive", fuseStreams)
	}
	h.log.Info("storage is ready", "engine", h.build.engine, "version", h.build.version, "zfs", h.zfs, "pools", h.pools)
	return h, nil
}

// Close ends nothing: every call waits for its own processes.
func (h *Host) Close() error { return nil }

// findTools resolves both, unless somebody else starts them.
func (h *Host) findTools(cfg Config) (err error) {
	if h.zfs, h.zpool = "zfs", "zpool"; h.launcher != nil {
		return nil
	}
	if h.zfs, err = findTool(cfg.ZFS, "zfs"); err != nil {
		return err
	}
	h.zpool, err = findTool(cfg.Zpool, "zpool")
	return err
}

// findTool resolves a tool to an absolute path.
func findTool(path, name string) (string, error) {
	tries := []string{path}
	if path == "" {
		tries = []string{"/usr/sbin/" + name, "/sbin/" + name, name, "/usr/local/sbin/" + name}
	}
	var errs []error
	for _, t := range tries {
		found, err := exec.LookPath(t)
		if err == nil && found[0] == '/' {
			return found, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", t, err))
	}
	return "", &Error{Op: "open", Object: name, Class: ErrToolMissing, Text: errors.Join(errs...).Error(), Next: nextToolMissing}
}

// allow checks that a dataset belongs to one of the host's pools.
func (h *Host) allow(op, dataset string) error {
	if err := ValidateDataset(dataset); err != nil {
		return &Error{Op: op, Object: dataset, Class: ErrInvalid, Text: err.Error()}
	}
	if !slices.Contains(h.pools, poolOf(dataset)) {
		return &Error{
			Op: op, Object: dataset, Class: ErrNotExist, Text: fmt.Sprintf("pool %s is not among %v", poolOf(dataset), h.pools),
			Next: "add the pool to the agent's configuration",
		}
	}
	return nil
}

// allowSnapshot checks a full snapshot name and gives its dataset.
func (h *Host) allowSnapshot(op, full string) (dataset, name string, err error) {
	dataset, name, err = ValidateSnapshot(full)
	if err != nil {
		return "", "", &Error{Op: op, Object: full, Class: ErrInvalid, Text: err.Error()}
	}
	return dataset, name, h.allow(op, dataset)
}

func (h *Host) allowBookmark(op, full string) (dataset string, err error) {
	dataset, _, err = ValidateBookmark(full)
	if err != nil {
		return "", &Error{Op: op, Object: full, Class: ErrInvalid, Text: err.Error()}
	}
	return dataset, h.allow(op, dataset)
}

// run is output for commands about a dataset. Where the tools say that something is
// missing, the reason may be that the whole pool is.
func (h *Host) run(ctx context.Context, op, object string, args ...string) ([]byte, error) {
	out, err := h.output(ctx, invocation{op: op, object: object, args: args})
	if errors.Is(err, ErrNotExist) {
		err = h.poolOrDataset(ctx, object, err)
	}
	return out, err
}

// poolOrDataset tells a missing dataset from a missing pool, of which zfs speaks in
// the same words.
func (h *Host) poolOrDataset(ctx context.Context, object string, missing error) error {
	pool := poolOf(object)
	if poolActive(pool) {
		return missing
	}
	there, errs, err := h.present.do(ctx, pool)
	if err != nil || errs[0] != nil || there[0] {
		return missing
	}
	var e *Error
	if !errors.As(missing, &e) {
		return missing
	}
	return &Error{Op: e.Op, Object: e.Object, Class: ErrPoolUnavailable, Text: "no pool " + pool, Next: nextUnavailable(pool, "")}
}

// readPresent looks for pools one by one: a failure of one says nothing of the others.
func (h *Host) readPresent(ctx context.Context, pools []string) ([]bool, []error) {
	there, errs := make([]bool, len(pools)), make([]error, len(pools))
	for i, pool := range pools {
		_, err := h.output(ctx, invocation{op: "list", object: pool, pool: true, args: []string{"list", "-H", "-o", "name,health", pool}})
		if there[i] = err == nil; !there[i] && !errors.Is(err, ErrNotExist) {
			errs[i] = err
		}
	}
	return there, errs
}
