package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tarn/zfs/durable"
)

// record is what a process that is not the agent needs to take a mountpoint away
// from clients: which server serves them and how it is told.
type record struct {
	Server  string        `json:"server"`
	Table   string        `json:"table"`
	Kernel  *KernelConfig `json:"kernel,omitempty"`
	Ganesha *ganeshaPlace `json:"ganesha,omitempty"`
}

// Names of servers in a record.
const (
	serverDirectory = "directory"
	serverEmbedded  = "embedded"
	serverKernel    = "kernel"
	serverGanesha   = "ganesha"
)

// Recorder is any exporter of this package.
type Recorder interface{ record() record }

func (d *Directory) record() record {
	return record{Server: serverDirectory, Table: d.config.File}
}

func (e *Embedded) record() record { return record{Server: serverEmbedded, Table: e.config.Table} }

func (k *Kernel) record() record {
	return record{Server: serverKernel, Table: k.config.Table, Kernel: &k.config}
}

func (g *Ganesha) record() record {
	return record{Server: serverGanesha, Table: g.config.Table, Ganesha: &g.where}
}

const recordFile = "exporter.json"

// Remember writes into dir, the agent's data directory, what Sever needs.
func Remember(dir string, e Recorder) error {
	data, err := json.Marshal(e.record())
	if err != nil {
		return fmt.Errorf("record the exporter: %w", err)
	}
	if err := durable.Replace(filepath.Join(dir, recordFile), append(data, '\n')); err != nil {
		return fmt.Errorf("record the exporter: %w", err)
	}
	return nil
}

// Succeed makes e the agent's exporter: what another kind served for it before, in
// an earlier life with another configuration, is taken away from clients first. It
// is for the agent alone, before anything is applied.
func Succeed(ctx context.Context, dir string, e Recorder) error {
	old, err := readRecord(dir)
	if err != nil {
		return err
	}
	if now := e.record(); old.Server != "" && (old.Server != now.Server || old.Table != now.Table) {
		if err := old.retire(ctx, dir); err != nil {
			return fmt.Errorf("end what the export server %s of an earlier configuration serves: %w", old.Server, err)
		}
	}
	return Remember(dir, e)
}

// retire takes everything away that a record's table has, and the table.
func (r record) retire(ctx context.Context, dir string) error {
	t, err := openTable(r.Table)
	if err != nil {
		return err
	}
	var problems []error
	for _, e := range t.list() {
		problems = append(problems, Sever(ctx, dir, e.Mountpoint))
	}
	if r.Ganesha != nil && r.Ganesha.Dir != "" {
		layout := ganeshaLayout{r.Ganesha.Dir}
		problems = append(problems, end(func() int { return ganeshaPID(layout) }), end(func() int { return busPID(layout) }))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if err := os.Remove(r.Table); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// severPatience is how long a server may take to let go of one mountpoint. An
// NFS-Ganesha of the agent's then has to let go of all.
const severPatience = 2 * time.Second

// Sever makes a mountpoint unreachable for every client, at once and with nothing
// but what Remember left in dir: the agent may be stopped or dead. It is
// idempotent, changes nothing that the agent keeps for itself, and does for each
// server what it can:
//
//   - kernel: the export's file and its clients go, the kernel forgets them, and
//     the locks and the NFSv4 state in the file system end;
//   - NFS-Ganesha: the export's file and the export go. One that the agent runs and
//     that does not obey within two seconds is killed, with everything it serves;
//   - the embedded server lives in the agent, which serves nothing while it is
//     stopped and asks for its lease before and after each request when it goes on,
//     so there is nothing to do;
//   - without a server, or before the first Remember, neither.
func Sever(ctx context.Context, dir, mountpoint string) error {
	r, err := readRecord(dir)
	if err == nil {
		err = r.sever(ctx, []string{mountpoint})
	}
	if err != nil {
		return fmt.Errorf("make %s unreachable: %w", mountpoint, err)
	}
	return nil
}

func (r record) sever(ctx context.Context, mountpoints []string) error {
	if len(mountpoints) == 0 {
		return nil
	}
	switch r.Server {
	case "", serverDirectory, serverEmbedded:
		return nil
	case serverKernel:
		k := Kernel{config: r.Kernel.defaults()}
		failed := k.sever(ctx, mountpoints...)
		k.settleEach(ctx, severPatience, mountpoints, func(string) {})
		return errors.Join(slices.Collect(maps.Values(failed))...)
	case serverGanesha:
		return r.Ganesha.severOrKill(ctx, mountpoints...)
	}
	return fmt.Errorf("this build does not know export server %q", r.Server)
}

// Remembered lists what the agent exports according to dir.
func Remembered(dir string) ([]Export, error) {
	r, err := readRecord(dir)
	if err != nil {
		return nil, err
	}
	return r.exports()
}

func (r record) exports() ([]Export, error) {
	if r.Table == "" {
		return nil, nil
	}
	t, err := openTable(r.Table)
	if err != nil {
		return nil, err
	}
	return t.list(), nil
}

func readRecord(dir string) (record, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("read who exports: %w", err)
	}
	return decodeRecord(data)
}

func decodeRecord(data []byte) (record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, fmt.Errorf("decode who exports: %w", err)
	}
	if r.Server == serverKernel && r.Kernel == nil || r.Server == serverGanesha && r.Ganesha == nil {
		return record{}, fmt.Errorf("decode who exports: nothing is said about server %q", r.Server)
	}
	return r, nil
}

// severOrKill ends the whole server where it does not let go of the mountpoints.
func (p ganeshaPlace) severOrKill(ctx context.Context, mountpoints ...string) error {
	patient, cancel := context.WithTimeout(ctx, severPatience)
	defer cancel()
	err := p.sever(patient, mountpoints...)
	if err == nil || p.Dir == "" {
		return err
	}
	layout := ganeshaLayout{p.Dir}
	if killed := kill(func() int { return ganeshaPID(layout) }); killed != nil {
		return errors.Join(err, killed)
	}
	return nil
}
