package export

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs/durable"
)

// GaneshaConfig of a Ganesha. Table and Host are required, and either Dir with
// Listen or Exports.
type GaneshaConfig struct {
	// Table is the file of the durable table, mode 0600; its directory exists.
	Table string
	// Host is the name or address under which clients know this machine.
	Host string
	// AnyPort admits clients from ports of 1024 and above, where any program of
	// theirs may claim to be any user.
	AnyPort bool
	// Mounts says that shares are file systems, mounted each at its mountpoint: a directory
	// at which nothing is mounted is the one below, and is not exported.
	Mounts bool

	// Dir makes the agent run a Ganesha of its own, with everything it needs in
	// this directory, mode 0700. Its path is short: a socket is in it.
	Dir string
	// Listen is where that one serves NFSv4.
	Listen netip.AddrPort
	// Command is ganesha.nfsd and BusCommand dbus-daemon, with their first arguments.
	Command, BusCommand []string

	// Exports is a directory that a Ganesha includes which somebody else runs.
	Exports string
	// Bus is the address of that one's message bus; "system" for the system's.
	Bus string

	Logger *slog.Logger
}

func (c GaneshaConfig) check() error {
	switch {
	case c.Table == "" || c.Host == "":
		return errors.New("ganesha exporter needs a table file and a host")
	case (c.Dir == "") == (c.Exports == ""):
		return errors.New("ganesha exporter needs a directory of its own or that of a running NFS-Ganesha, not both")
	case c.Dir != "" && (!c.Listen.IsValid() || c.Listen.Port() == 0):
		return errors.New("ganesha exporter needs an address and a port to listen on")
	case c.Dir != "" && len(ganeshaLayout{c.Dir}.busSocket()) > 100:
		return fmt.Errorf("ganesha exporter: %s is too long for a socket in it: use a shorter data_dir", c.Dir)
	case c.Dir != "":
		return checkConfigPath(c.Dir)
	}
	return nil
}

// Ganesha exports through NFS-Ganesha, with a file per export for its next start
// and a message to the running one, whose answer is read back. Exports that
// others made are never touched. Safe for concurrent use.
type Ganesha struct {
	config GaneshaConfig
	where  ganeshaPlace
	runner *ganeshaRunner // nil: somebody else runs it

	mu    sync.Mutex
	table *table
}

// ganeshaPlace is how a Ganesha is reached.
type ganeshaPlace struct {
	// Exports holds a file per export.
	Exports string `json:"exports"`
	// Bus is the address of the message bus.
	Bus string `json:"bus"`
	// Dir is that of a Ganesha which the agent runs, "" for another.
	Dir string `json:"dir,omitempty"`
}

// NewGanesha reads the table, if there is one. It starts nothing.
func NewGanesha(config GaneshaConfig) (*Ganesha, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	table, err := openTable(config.Table)
	if err != nil {
		return nil, err
	}
	g := &Ganesha{config: config, table: table, where: ganeshaPlace{Exports: config.Exports, Bus: config.Bus}}
	if config.Dir != "" {
		layout := ganeshaLayout{config.Dir}
		g.where = ganeshaPlace{Exports: layout.exports(), Bus: layout.busAddress(), Dir: config.Dir}
		g.runner = newGaneshaRunner(layout, config, g.retract)
	}
	return g, nil
}

// Run keeps the agent's own Ganesha alive until ctx ends, then stops it. One that
// an earlier life of the agent left is taken over, clients notice nothing. Whoever runs
// it, what it serves of directories below a mountpoint, after a boot, is taken away.
func (g *Ganesha) Run(ctx context.Context) error {
	if g.runner != nil {
		return g.runner.run(ctx)
	}
	ticker := time.NewTicker(ganeshaPause)
	defer ticker.Stop()
	for said := false; ; said = true {
		err := g.retract(ctx)
		if err == nil {
			<-ctx.Done()
			return nil
		}
		if !said {
			g.config.Logger.Warn("NFS-Ganesha may serve what is not mounted; this is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// retract takes away what the table has and is not mounted: Ganesha would hand out
// directories that are hidden as soon as something is mounted there. In a directory of
// its own, files of exports that are not in the table go, too.
func (g *Ganesha) retract(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.config.Mounts {
		return g.where.clean()
	}
	keep := map[string]bool{}
	var errs []error
	var hidden []string
	for _, e := range g.table.list() {
		_, err := mountedAt(e.Mountpoint)
		if errors.Is(err, errNotMounted) {
			hidden, err = append(hidden, e.Mountpoint), nil
		}
		keep[g.where.file(e.Mountpoint)] = true
		errs = append(errs, err)
	}
	errs = append(errs, g.withdraw(ctx, hidden), g.where.clean())
	if g.runner == nil {
		return errors.Join(errs...)
	}
	own, err := filepath.Glob(filepath.Join(g.where.Exports, "tarn-*.conf"))
	errs = append(errs, err)
	for _, file := range own {
		if !keep[file] {
			errs = append(errs, os.Remove(file))
		}
	}
	return errors.Join(errs...)
}

// withdraw severs mountpoints together, within severPatience: others wait for the lock that
// the caller has.
func (g *Ganesha) withdraw(ctx context.Context, mountpoints []string) error {
	if len(mountpoints) == 0 {
		return nil
	}
	g.config.Logger.Warn("exports are taken away: nothing is mounted there", "mountpoints", mountpoints)
	patient, cancel := context.WithTimeout(ctx, severPatience)
	defer cancel()
	if err := g.where.sever(patient, mountpoints...); err != nil {
		return err
	}
	return g.table.change(func(rows map[string]Export) {
		for _, m := range mountpoints {
			delete(rows, m)
		}
	})
}

// Apply puts the whole rule set of a mountpoint in force and returns where clients
// find it, after Ganesha itself says so.
func (g *Ganesha) Apply(ctx context.Context, mountpoint string, want *tarnv1.Exports, readOnly bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error) {
	export, refused, err := plan(mountpoint, want, readOnly, ganeshaPrefix)
	if err != nil {
		return nil, nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.apply(ctx, export); err != nil {
		return nil, nil, fmt.Errorf("export %s: %w", mountpoint, err)
	}
	return reported(g.config.Host, mountpoint), refused, nil
}

func (g *Ganesha) apply(ctx context.Context, export Export) error {
	if err := errors.Join(checkConfigPath(export.Mountpoint), checkFSID(export.FSID)); err != nil {
		return err
	}
	var err error
	if export.Source, err = mountedAt(export.Mountpoint); err != nil && g.config.Mounts {
		return err
	}
	if err := errors.Join(g.displace(ctx, export), g.table.taken(export)); err != nil {
		return err
	}
	b, err := dialBus(ctx, g.where.Bus)
	if err != nil {
		return errors.Join(err, g.outdate(export))
	}
	defer b.close()
	inUse, err := b.ids(ctx)
	if err != nil {
		return errors.Join(err, g.outdate(export))
	}
	if export.ID, err = g.number(export, inUse); err != nil {
		return err
	}
	for id, path := range inUse {
		// The same directory under another fsid is not the same file system.
		if path == export.Mountpoint && id != export.ID {
			if err := b.remove(ctx, id); err != nil {
				return err
			}
		}
	}
	// The record comes first: what is in force is never unknown to the dead-man.
	if err := g.table.put(export); err != nil {
		return err
	}
	return g.where.enforce(ctx, b, export, ganeshaClients(export, g.config.AnyPort))
}

// outdate is for a Ganesha that cannot be told: if it starts, it is not to bring back what
// was taken away since. It then serves the share when it is told.
func (g *Ganesha) outdate(export Export) error {
	old := g.table.rows[export.Mountpoint]
	if old.FSID == export.FSID && old.ReadOnly == export.ReadOnly && old.Squash == export.Squash && slices.Equal(old.Clients, export.Clients) {
		return nil
	}
	if err := os.Remove(g.where.file(export.Mountpoint)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// displace removes the export of a share from where it was mounted before, and nothing is
// by now.
func (g *Ganesha) displace(ctx context.Context, export Export) error {
	for _, old := range g.table.list() {
		if !g.config.Mounts || old.FSID != export.FSID || old.Mountpoint == export.Mountpoint {
			continue
		}
		if _, err := mountedAt(old.Mountpoint); !errors.Is(err, errNotMounted) {
			continue // taken tells
		}
		if err := g.where.sever(ctx, old.Mountpoint); err != nil {
			return err
		}
		if err := g.table.remove(old.Mountpoint); err != nil {
			return err
		}
	}
	return nil
}

// number keeps the id that the export has, or finds one.
func (g *Ganesha) number(export Export, inUse map[uint16]string) (uint16, error) {
	if old, ok := g.table.rows[export.Mountpoint]; ok && old.ID != 0 && old.FSID == export.FSID {
		if path, used := inUse[old.ID]; !used || path == export.Mountpoint {
			return old.ID, nil
		}
	}
	return exportID(export.FSID, func(id uint16) bool {
		if path, used := inUse[id]; used && path != export.Mountpoint {
			return true
		}
		for _, row := range g.table.rows {
			if row.ID == id && row.Mountpoint != export.Mountpoint {
				return true
			}
		}
		return false
	})
}

// enforce makes Ganesha serve an export to clients, and to nobody else.
func (p ganeshaPlace) enforce(ctx context.Context, b *bus, export Export, clients []ganeshaClient) error {
	file := p.file(export.Mountpoint)
	text := []byte(ganeshaText(export, clients))
	if old, err := os.ReadFile(file); err != nil || !bytes.Equal(old, text) {
		if err := p.write(file, text); err != nil {
			return err
		}
	}
	info, err := b.show(ctx, export.ID)
	switch {
	case errors.Is(err, errNoExport):
		err = b.add(ctx, file, export.ID)
	case err != nil:
	case info.path != export.Mountpoint:
		err = fmt.Errorf("export id %d is that of %s", export.ID, info.path)
	case info.confirms(export, clients) == nil:
		return nil
	default:
		err = b.update(ctx, file, export.ID)
	}
	if err != nil {
		return err
	}
	if info, err = b.show(ctx, export.ID); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	return info.confirms(export, clients)
}

// write puts an export's file in place, at once. Its first form is in a directory, which
// NFS-Ganesha passes over: it reads every file, and one that a crash left would bring back
// an export, or be none and keep it from starting.
func (p ganeshaPlace) write(file string, text []byte) error {
	aside := filepath.Join(p.Exports, "tarn.new")
	if err := os.Mkdir(aside, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	first := filepath.Join(aside, filepath.Base(file))
	if err := durable.Replace(first, text); err != nil {
		return err
	}
	if err := os.Rename(first, file); err != nil {
		return err
	}
	return durable.SyncDir(p.Exports)
}

// clean removes first forms that a crash has left where Ganesha reads them.
func (p ganeshaPlace) clean() error {
	left, err := filepath.Glob(filepath.Join(p.Exports, ".tarn-*.conf.*"))
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

// confirms reports what differs from what Ganesha was told.
func (i ganeshaExportInfo) confirms(export Export, clients []ganeshaClient) error {
	if i.path != export.Mountpoint || i.pseudo != export.Mountpoint {
		return fmt.Errorf("NFS-Ganesha serves %s at %s, want %s", i.path, i.pseudo, export.Mountpoint)
	}
	if !slices.Equal(i.clients, clients) || len(i.foreign) > 0 {
		return fmt.Errorf("NFS-Ganesha serves %s to %v %v, want %v", export.Mountpoint, i.clients, i.foreign, clients)
	}
	return nil
}

// Remove takes a mountpoint away from every client, and with it the state that
// they have in it. One that is not exported is no error.
func (g *Ganesha) Remove(ctx context.Context, mountpoint string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.where.sever(ctx, mountpoint)
	if err == nil {
		err = g.table.remove(mountpoint)
	}
	if err != nil {
		return fmt.Errorf("remove export %s: %w", mountpoint, err)
	}
	return nil
}

// sever is Remove without the table, of several at a time. A Ganesha of the agent's that
// does not run serves nobody.
func (p ganeshaPlace) sever(ctx context.Context, mountpoints ...string) error {
	// First the files, so that no start brings the exports back.
	var errs []error
	for _, m := range mountpoints {
		err := checkMountpoint(m)
		if err == nil {
			err = os.Remove(p.file(m))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if p.Dir != "" && !ganeshaAlive(ganeshaLayout{p.Dir}) {
		return errors.Join(errs...)
	}
	b, err := dialBus(ctx, p.Bus)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer b.close()
	return errors.Join(append(errs, b.removeAll(ctx, mountpoints))...)
}

// List returns all exports by mountpoint, as recorded.
func (g *Ganesha) List(context.Context) ([]Export, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table.list(), nil
}

// file names the export's own file: nothing of it is of a caller's making.
func (p ganeshaPlace) file(mountpoint string) string {
	sum := sha256.Sum256([]byte(mountpoint))
	return filepath.Join(p.Exports, "tarn-"+hex.EncodeToString(sum[:8])+".conf")
}
