package export

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs/durable"
)

// Export is one mountpoint that clients may reach.
type Export struct {
	Mountpoint string `json:"mountpoint"`
	// Revision of the share's access rules that Clients are of.
	Revision uint64 `json:"revision"`
	// FSID identifies the file system to clients; the same wherever the share is served.
	FSID string `json:"fsid"`
	// ReadOnly holds for every client.
	ReadOnly bool `json:"read_only"`
	// Squash says which users of a client become nobody.
	Squash  Squash   `json:"squash"`
	Clients []Client `json:"clients"`
	// ID is what NFS-Ganesha calls the export; 0 with the other servers.
	ID uint16 `json:"id,omitempty"`
	// Source is what was mounted there when it was exported, of ZFS a dataset's name; "" if
	// nothing was, or nobody looked.
	Source string `json:"source,omitempty"`
}

// Squash says which users of a client become nobody.
type Squash string

// The values of tarn:squash.
const (
	SquashNone Squash = "none"
	SquashRoot Squash = "root"
	SquashAll  Squash = "all"
)

func squashOf(s tarnv1.Squash) (Squash, error) {
	switch s {
	case tarnv1.Squash_SQUASH_NONE:
		return SquashNone, nil
	case tarnv1.Squash_SQUASH_UNSPECIFIED, tarnv1.Squash_SQUASH_ROOT:
		return SquashRoot, nil
	case tarnv1.Squash_SQUASH_ALL:
		return SquashAll, nil
	}
	return "", fmt.Errorf("squash %v is not one that this agent knows: upgrade it", s)
}

// plan translates what is wanted of a mountpoint into what a server can be told
// that accepts such prefixes.
func plan(mountpoint string, want *tarnv1.Exports, readOnly bool, accepts func(netip.Prefix) error) (Export, []*tarnv1.RuleError, error) {
	if err := checkMountpoint(mountpoint); err != nil {
		return Export{}, nil, err
	}
	squash, err := squashOf(want.GetSquash())
	if err != nil {
		return Export{}, nil, fmt.Errorf("export %s: %w", mountpoint, err)
	}
	clients, refused := clientsOf(want.GetRules(), readOnly, accepts)
	return Export{
		Mountpoint: mountpoint, Revision: want.GetRevision(), FSID: want.GetFsid(), ReadOnly: readOnly,
		Squash: squash, Clients: clients,
	}, refused, nil
}

func checkMountpoint(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return fmt.Errorf("mountpoint %q is not a clean absolute path below /", path)
	}
	return nil
}

// checkConfigPath is for paths that a server reads from its configuration: what
// could mean something there has no business in it.
func checkConfigPath(path string) error {
	if err := checkMountpoint(path); err != nil {
		return err
	}
	if at := strings.IndexFunc(path, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/_.-+@=,", r)
	}); at >= 0 {
		return fmt.Errorf("mountpoint %q has the character %q, which no NFS configuration may hold: set another mountpoint on the pool", path, path[at:at+1])
	}
	return nil
}

// table is the durable record of what is exported. The caller serialises.
type table struct {
	file string
	rows map[string]Export
	puts map[string]uint64 // how often a mountpoint was put, see removeSince
}

// openTable reads the table, if there is one. A table that cannot be read is an
// error: forgetting who may reach what is not safe.
func openTable(file string) (*table, error) {
	rows, err := readTable(file)
	if err != nil {
		return nil, err
	}
	return &table{file: file, rows: rows, puts: map[string]uint64{}}, nil
}

// put writes e if it is not what is recorded.
func (t *table) put(e Export) error {
	t.puts[e.Mountpoint]++
	if old, ok := t.rows[e.Mountpoint]; ok && reflect.DeepEqual(old, e) {
		return nil
	}
	return t.change(func(rows map[string]Export) { rows[e.Mountpoint] = e })
}

// remove forgets a mountpoint; one that is not there is no error.
func (t *table) remove(mountpoint string) error {
	if _, ok := t.rows[mountpoint]; !ok {
		return nil
	}
	return t.change(func(rows map[string]Export) { delete(rows, mountpoint) })
}

// removeSince is remove, unless the mountpoint was put again since puts had the value.
func (t *table) removeSince(mountpoint string, puts uint64) error {
	if t.puts[mountpoint] != puts {
		return nil
	}
	return t.remove(mountpoint)
}

// taken tells which other mountpoint is exported under the same fsid, which no
// server can tell apart.
func (t *table) taken(e Export) error {
	for _, other := range t.rows {
		if other.FSID == e.FSID && other.Mountpoint != e.Mountpoint {
			return fmt.Errorf("fsid %s is already that of %s: unexport that first", e.FSID, other.Mountpoint)
		}
	}
	return nil
}

// change writes a changed copy, reads it back, and only then believes it.
func (t *table) change(edit func(map[string]Export)) error {
	next := make(map[string]Export, len(t.rows)+1)
	for k, v := range t.rows {
		next[k] = v
	}
	edit(next)
	if err := writeTable(t.file, next); err != nil {
		return err
	}
	found, err := readTable(t.file)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !reflect.DeepEqual(found, next) {
		return errors.New("table on disk is not what was written")
	}
	t.rows = next
	return nil
}

func (t *table) list() []Export {
	all := make([]Export, 0, len(t.rows))
	for _, e := range t.rows {
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
	rows := make(map[string]Export, len(content.Exports))
	for _, e := range content.Exports {
		if err := checkMountpoint(e.Mountpoint); err != nil {
			return nil, fmt.Errorf("decode export table: %w", err)
		}
		if e.Clients == nil {
			e.Clients = []Client{}
		}
		if e.Squash == "" {
			e.Squash = SquashRoot // written before there was a choice
		}
		rows[e.Mountpoint] = e
	}
	return rows, nil
}

func writeTable(file string, rows map[string]Export) error {
	data, err := json.MarshalIndent(tableFile{Version: tableVersion, Exports: (&table{rows: rows}).list()}, "", " ")
	if err != nil {
		return fmt.Errorf("encode export table: %w", err)
	}
	if err := durable.Replace(file, append(data, '\n')); err != nil {
		return fmt.Errorf("write export table: %w", err)
	}
	return nil
}
