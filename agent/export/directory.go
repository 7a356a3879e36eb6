package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	tarnv1 "tarn/proto/tarn/v1"
)

// Export is one mountpoint that clients may reach.
type Export struct {
	Mountpoint string `json:"mountpoint"`
	// Revision of the share's access rules that Clients are of.
	Revision uint64 `json:"revision"`
	// FSID identifies the file system to clients; the same wherever the share is served.
	FSID string `json:"fsid"`
	// ReadOnly holds for every client.
	ReadOnly bool     `json:"read_only"`
	Clients  []Client `json:"clients"`
}

// DirectoryConfig of a Directory. Both are required.
type DirectoryConfig struct {
	// File holds the table, mode 0600; its directory exists.
	File string
	// Host is the name or address under which clients know this machine.
	Host string
}

// Directory exports plain directories: their path on this host is the export
// path. Who may use one is in a durable table; the directories' modes decide for
// the users of this machine. Safe for concurrent use.
type Directory struct {
	config DirectoryConfig

	mu    sync.Mutex
	table map[string]Export
}

// NewDirectory reads the table, if there is one. A table that cannot be read is
// an error: forgetting who may reach what is not safe.
func NewDirectory(config DirectoryConfig) (*Directory, error) {
	if config.File == "" || config.Host == "" {
		return nil, errors.New("directory exporter needs a file and a host")
	}
	table, err := readTable(config.File)
	if err != nil {
		return nil, err
	}
	return &Directory{config: config, table: table}, nil
}

// Apply puts the whole rule set of a mountpoint in force and returns where clients
// find it. Rules that make no sense are told one by one; the others count. It
// writes only what changed, and reads it back.
func (d *Directory) Apply(ctx context.Context, mountpoint string, want *tarnv1.Exports, readOnly bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if err := checkMountpoint(mountpoint); err != nil {
		return nil, nil, err
	}
	clients, refused := Clients(want.GetRules(), readOnly)
	export := Export{
		Mountpoint: mountpoint, Revision: want.GetRevision(), FSID: want.GetFsid(), ReadOnly: readOnly, Clients: clients,
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old, ok := d.table[mountpoint]; !ok || !reflect.DeepEqual(old, export) {
		if err := d.change(func(table map[string]Export) { table[mountpoint] = export }); err != nil {
			return nil, nil, fmt.Errorf("export %s: %w", mountpoint, err)
		}
	}
	return []*tarnv1.ReportedExport{{Path: d.path(mountpoint), Preferred: true}}, refused, nil
}

// Remove takes a mountpoint away; one that is not exported is no error.
func (d *Directory) Remove(ctx context.Context, mountpoint string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.table[mountpoint]; !ok {
		return nil
	}
	if err := d.change(func(table map[string]Export) { delete(table, mountpoint) }); err != nil {
		return fmt.Errorf("remove export %s: %w", mountpoint, err)
	}
	return nil
}

// List returns all exports by mountpoint.
func (d *Directory) List(context.Context) ([]Export, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return sorted(d.table), nil
}

// path is host:mountpoint, an IPv6 address in brackets.
func (d *Directory) path(mountpoint string) string {
	host := d.config.Host
	if ip := net.ParseIP(host); ip != nil && strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + mountpoint
}

func checkMountpoint(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return fmt.Errorf("mountpoint %q is not a clean absolute path below /", path)
	}
	return nil
}

// change writes a changed copy, reads it back, and only then believes it. The
// caller has the lock.
func (d *Directory) change(edit func(map[string]Export)) error {
	next := make(map[string]Export, len(d.table)+1)
	for k, v := range d.table {
		next[k] = v
	}
	edit(next)
	if err := writeTable(d.config.File, next); err != nil {
		return err
	}
	found, err := readTable(d.config.File)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !reflect.DeepEqual(found, next) {
		return errors.New("table on disk is not what was written")
	}
	d.table = next
	return nil
}

func sorted(table map[string]Export) []Export {
	all := make([]Export, 0, len(table))
	for _, e := range table {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Export) int { return strings.Compare(a.Mountpoint, b.Mountpoint) })
	return all
}

// tableFile is the format on disk.
type tableFile struct {
	Version int      `json:"version"`
	Exports []Export `json:"exports"`
}

const tableVersion = 1

func readTable(file string) (map[string]Export, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Export{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read export table: %w", err)
	}
	return decodeTable(data)
}

func decodeTable(data []byte) (map[string]Export, error) {
	var content tableFile
	if err := json.Unmarshal(data, &content); err != nil {
		return nil, fmt.Errorf("decode export table: %w", err)
	}
	if content.Version != tableVersion {
		return nil, fmt.Errorf("export table has version %d, want %d", content.Version, tableVersion)
	}
	table := make(map[string]Export, len(content.Exports))
	for _, e := range content.Exports {
		if err := checkMountpoint(e.Mountpoint); err != nil {
			return nil, fmt.Errorf("decode export table: %w", err)
		}
		if e.Clients == nil {
			e.Clients = []Client{}
		}
		table[e.Mountpoint] = e
	}
	return table, nil
}

// writeTable leaves the old file or the new one whatever happens meanwhile.
func writeTable(file string, table map[string]Export) (err error) {
	data, err := json.MarshalIndent(tableFile{Version: tableVersion, Exports: sorted(table)}, "", " ")
	if err != nil {
		return fmt.Errorf("encode export table: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".exports-*")
	if err != nil {
		return fmt.Errorf("write export table: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write export table: %w", err), os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(append(data, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
