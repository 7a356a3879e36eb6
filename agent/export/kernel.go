package export

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs/durable"
)

// KernelConfig of a Kernel. Table and Host are required.
type KernelConfig struct {
	// Table is the file of the durable table, mode 0600; its directory exists.
	Table string
	// Host is the name or address under which clients know this machine.
	Host string
	// Dir holds a file per export, which the server reads at boot. Default /etc/exports.d.
	Dir string
	// Command is exportfs and its first arguments. Default exportfs.
	Command []string
	// Etab is where exportfs keeps what is in force. Default /var/lib/nfs/etab.
	Etab string
	// Proc is the server's control file system. Default /proc/fs/nfsd.
	Proc string
	// Caches are the server's, in the proc file system. Default /proc/thread-self/net/rpc:
	// the first thread's network need not be everybody's.
	Caches string
	// AnyPort admits clients from ports of 1024 and above, where any program of
	// theirs may claim to be any user.
	AnyPort bool
}

func (c KernelConfig) defaults() KernelConfig {
	c.Dir = or(c.Dir, "/etc/exports.d")
	c.Etab = or(c.Etab, "/var/lib/nfs/etab")
	c.Proc = or(c.Proc, "/proc/fs/nfsd")
	c.Caches = or(c.Caches, "/proc/thread-self/net/rpc")
	if len(c.Command) == 0 {
		c.Command = []string{"exportfs"}
	}
	return c
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// commandTimeout bounds one exportfs, which waits for a lock of others.
const commandTimeout = 10 * time.Second

// commandGrace is how long one that was killed may take to end.
const commandGrace = time.Second

// Kernel exports through the Linux kernel's NFS server. A mountpoint is all
// tarn's: whatever clients it is exported to are those of its rules. What is
// exported elsewhere is never touched. Safe for concurrent use.
type Kernel struct {
	config KernelConfig

	mu    sync.Mutex
	table *table

	queueing sync.Mutex
	queue    []*removal // what waits for mu, done in one go by the next who has it
}

// NewKernel reads the table, if there is one. It changes nothing.
func NewKernel(config KernelConfig) (*Kernel, error) {
	if config.Table == "" || config.Host == "" {
		return nil, errors.New("kernel exporter needs a table file and a host")
	}
	config = config.defaults()
	table, err := openTable(config.Table)
	if err != nil {
		return nil, err
	}
	return &Kernel{config: config, table: table}, nil
}

// Apply puts the whole rule set of a mountpoint in force and returns where clients
// find it, after the server's own table says so. The mountpoint must be mounted.
func (k *Kernel) Apply(ctx context.Context, mountpoint string, want *tarnv1.Exports, readOnly bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error) {
	export, refused, err := plan(mountpoint, want, readOnly, anyPrefix)
	if err != nil {
		return nil, nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.apply(ctx, export); err != nil {
		return nil, nil, fmt.Errorf("export %s: %w", mountpoint, err)
	}
	return reported(k.config.Host, mountpoint), refused, nil
}

func (k *Kernel) apply(ctx context.Context, export Export) error {
	if err := errors.Join(checkConfigPath(export.Mountpoint), checkFSID(export.FSID)); err != nil {
		return err
	}
	if err := mounted(export.Mountpoint); err != nil {
		return err
	}
	export.Source, _ = mountedAt(export.Mountpoint) // something is, as was just seen
	if err := errors.Join(k.displace(ctx, export), k.table.taken(export)); err != nil {
		return err
	}
	entries, err := kernelEntries(export, k.config.AnyPort)
	if err != nil {
		return err
	}
	// The record comes first: what is in force is never unknown to the dead-man.
	if err := k.table.put(export); err != nil {
		return err
	}
	if err := k.writeFile(export.Mountpoint, entries); err != nil {
		return err
	}
	return k.enforce(ctx, export.Mountpoint, entries)
}

// displace removes the export of a share from where it was mounted before: nothing is
// there any more, and nobody else would take it away.
func (k *Kernel) displace(ctx context.Context, export Export) error {
	for _, old := range k.table.list() {
		at := old.Mountpoint
		if old.FSID != export.FSID || at == export.Mountpoint || mounted(at) == nil {
			continue
		}
		if err := k.sever(ctx, at)[at]; err != nil {
			return err
		}
		if err := k.table.remove(at); err != nil {
			return err
		}
	}
	return nil
}

// List returns all exports by mountpoint, as recorded.
func (k *Kernel) List(context.Context) ([]Export, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.table.list(), nil
}

// enforce makes the server's table say entries of mountpoint, and nothing else.
func (k *Kernel) enforce(ctx context.Context, mountpoint string, entries []kernelEntry) error {
	table, err := k.etab()
	if err != nil {
		return err
	}
	have := table.at(mountpoint)
	var gone []string
	for client := range have {
		if !slices.ContainsFunc(entries, func(e kernelEntry) bool { return e.client == client }) {
			gone = append(gone, exportArgument(client, mountpoint))
		}
	}
	// What is taken away goes first, also while nobody serves: the server's start would
	// bring it back. What is given comes after.
	slices.Sort(gone)
	if err := errors.Join(k.exportfsEach(ctx, []string{"-u"}, gone), table.crossed(mountpoint), k.serving()); err != nil {
		return err
	}
	byOptions := map[string][]string{}
	for _, e := range entries {
		if options, ok := have[e.client]; !ok || !e.inForce(options) {
			byOptions[e.options] = append(byOptions[e.options], exportArgument(e.client, mountpoint))
		}
	}
	for options, clients := range byOptions {
		if err := k.exportfsEach(ctx, []string{"-i", "-o", options}, clients); err != nil {
			return err
		}
	}
	if len(gone) == 0 && len(byOptions) == 0 {
		return nil
	}
	if table, err = k.etab(); err != nil {
		return err
	}
	return k.verify(table, mountpoint, entries)
}

func (k *Kernel) verify(table etab, mountpoint string, entries []kernelEntry) error {
	if err := table.crossed(mountpoint); err != nil {
		return err
	}
	have := table.at(mountpoint)
	for _, e := range entries {
		if options, ok := have[e.client]; !ok || !e.inForce(options) {
			return fmt.Errorf("read back from %s: %s is not exported to %s as asked", k.config.Etab, mountpoint, e.client)
		}
	}
	if len(have) != len(entries) {
		return fmt.Errorf("read back from %s: %s is exported to %d clients, want %d", k.config.Etab, mountpoint, len(have), len(entries))
	}
	return nil
}

// etab reads what the server was told.
func (k *Kernel) etab() (etab, error) {
	data, err := os.ReadFile(k.config.Etab)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what is exported: %w", err)
	}
	all, err := parseEtab(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.config.Etab, err)
	}
	return all, nil
}

// file names the export's own file: nothing of it is of a caller's making.
func (k *Kernel) file(mountpoint string) string {
	sum := sha256.Sum256([]byte(mountpoint))
	return filepath.Join(k.config.Dir, "tarn-"+hex.EncodeToString(sum[:8])+".exports")
}

func (k *Kernel) writeFile(mountpoint string, entries []kernelEntry) error {
	file, text := k.file(mountpoint), kernelText(mountpoint, entries)
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := os.MkdirAll(k.config.Dir, 0o755); err != nil {
		return err
	}
	return durable.Replace(file, text)
}

// serving tells whether the kernel has threads to serve with.
func (k *Kernel) serving() error {
	data, err := os.ReadFile(filepath.Join(k.config.Proc, "threads"))
	if err != nil || strings.TrimSpace(string(data)) == "0" {
		return errors.New("the kernel's NFS server does not run: start it (systemctl start nfs-server)")
	}
	return nil
}

func (k *Kernel) exportfs(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.config.Command[0], append(slices.Clone(k.config.Command[1:]), args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = commandGrace // for what it started and what keeps its output open
	var out []byte
	ended := make(chan error, 1)
	go func() {
		var err error
		out, err = cmd.CombinedOutput()
		ended <- err
	}()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		late := time.NewTimer(2 * commandGrace)
		defer late.Stop()
		select {
		case err = <-ended:
		case <-late.C: // the kernel keeps it: nobody else is to wait for that
			return fmt.Errorf("%s %s: it does not end: %w", k.config.Command[0], args[0], ctx.Err())
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", k.config.Command[0], args[0], err, bytes.TrimSpace(out))
	}
	return nil
}

// mounted returns nil when a file system is mounted at path.
func mounted(path string) error {
	var here, above syscall.Stat_t
	if err := syscall.Stat(path, &here); err != nil {
		return fmt.Errorf("nothing is mounted: %w", err)
	}
	if err := syscall.Stat(filepath.Dir(path), &above); err != nil {
		return fmt.Errorf("nothing is mounted: %w", err)
	}
	if here.Dev == above.Dev {
		return fmt.Errorf("nothing is mounted at %s", path)
	}
	return nil
}
