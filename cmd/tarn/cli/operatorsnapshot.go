package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"

	"tarn/controlplane"
	"tarn/controlplane/backup"
	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

type stateCmd struct {
	Save    stateSave    `cmd:"" help:"Save the control plane's whole state to a file."`
	Inspect stateInspect `cmd:"" help:"Check a saved state and say what it holds, without a cluster."`
	Restore stateRestore `cmd:"" help:"Start a lost control plane again from a saved state, on a stopped, empty node."`
}

type stateSave struct {
	File string `arg:"" optional:"" help:"Where to; it must not exist." type:"path"`
	Into string `help:"A directory for regular backups, named by their time, in place of FILE." type:"path" placeholder:"DIR"`
	Keep int    `help:"With --into: how many of those stay there, the new one among them; 0 is all." placeholder:"N"`
}

// Run writes beside the file's name, checks what it wrote, and only then gives it its name.
func (c *stateSave) Run(ctx context.Context, a *app, api *client.Client) error {
	if err := c.name(time.Now()); err != nil {
		return err
	}
	if _, err := os.Lstat(c.File); err == nil {
		return fail(exitRefused, "%s exists", c.File).next("choose another name: a backup is never overwritten")
	}
	// First, for the space; what fails there is no reason to have no backup.
	swept := c.sweepParts()
	summary, err := c.save(ctx, api)
	if err != nil {
		return errors.Join(err, swept)
	}
	return errors.Join(printState(a, summary), swept, c.retain())
}

func (c *stateSave) save(ctx context.Context, api *client.Client) (summary backup.Summary, err error) {
	part, err := c.openPart()
	if err != nil {
		return summary, err
	}
	// Removed while it is locked: afterwards it may be another's.
	defer func() { err = errors.Join(err, os.Remove(part.Name()), part.Close()) }()
	if summary, err = saveState(ctx, api, part); err != nil {
		return summary, err
	}
	// A link fails if somebody else took the name meanwhile.
	if err := os.Link(part.Name(), c.File); err != nil {
		return summary, fmt.Errorf("save state: %w", err)
	}
	return summary, syncDir(filepath.Dir(c.File))
}

func saveState(ctx context.Context, api *client.Client, f *os.File) (backup.Summary, error) {
	if err := readBackup(ctx, api, f); err != nil {
		return backup.Summary{}, err
	}
	if err := f.Sync(); err != nil {
		return backup.Summary{}, fmt.Errorf("save state: %w", err)
	}
	return backup.Check(f)
}

// readBackup begins again when the node that it reads from leads no more.
func readBackup(ctx context.Context, api *client.Client, f *os.File) error {
	const attempts = 5
	var err error
	for range attempts {
		if err = errors.Join(f.Truncate(0), rewind(f)); err != nil {
			return fmt.Errorf("save state: %w", err)
		}
		if err = readPieces(ctx, api, f); connect.CodeOf(err) != connect.CodeNotFound {
			return err
		}
	}
	return err
}

func readPieces(ctx context.Context, api *client.Client, w io.Writer) error {
	req := &tarnv1.ReadBackupRequest{}
	for {
		piece, err := api.Operator.ReadBackup(ctx, req)
		if err != nil {
			return err
		}
		if _, err := w.Write(piece.GetData()); err != nil {
			return fmt.Errorf("save state: %w", err)
		}
		if piece.GetLast() {
			return nil
		}
		req = &tarnv1.ReadBackupRequest{Id: piece.GetId(), Piece: req.GetPiece() + 1}
	}
}

func rewind(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

type stateInspect struct {
	File string `arg:"" help:"From tarn operator snapshot save." type:"path"`
}

func (c *stateInspect) Run(a *app) error {
	f, err := openState(c.File)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	summary, err := backup.Check(f)
	if err != nil {
		return stateFailure(c.File, err)
	}
	return printState(a, summary)
}

func openState(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail(exitNotFound, "%s does not exist", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read saved state: %w", err)
	}
	return f, nil
}

func stateFailure(path string, err error) error {
	switch {
	case errors.Is(err, backup.ErrNewer):
		return fail(exitRefused, "%s: %w", path, err).next("install the tarn that wrote it, or a newer one, and repeat")
	case errors.Is(err, backup.ErrDamaged):
		return fail(exitRefused, "%s: %w", path, err).next("take an older backup; `tarn operator snapshot inspect` checks it")
	case errors.Is(err, controlplane.ErrClusterRuns):
		return fail(exitRefused, "%w", err).next("docs/design/0002-control-plane.md, \"Restore\", has the procedure")
	}
	return err
}

type stateRestore struct {
	File   string `arg:"" help:"From tarn operator snapshot save." type:"path"`
	Config string `arg:"" name:"config" help:"controlplane.toml of the node, which is stopped and whose data directory is empty." type:"path"`
}

func (c *stateRestore) Run(ctx context.Context, a *app) error {
	cfg, err := controlplane.LoadConfig(c.Config)
	if err != nil {
		return usage("%w", err).next("tarn config check %s", c.Config)
	}
	cfg.Logger = a.logger()
	f, err := openState(c.File)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	done, err := controlplane.Restore(ctx, cfg, f)
	if err != nil {
		return stateFailure(c.File, err)
	}
	switch {
	case a.Quiet:
		return printState(a, done.Summary)
	case a.Output != "table":
		return printMachine(a, a.stdout, done)
	}
	fmt.Fprintf(a.stdout, "node %s has the state of index %d, of %s\n", done.NodeID, done.Index, done.TakenAt.Format(time.RFC3339))
	for _, s := range done.Unasked {
		fmt.Fprintf(a.stdout, "did not answer: %s at %s: it must never run with its old data again\n", s.ID, s.Address)
	}
	fmt.Fprintf(a.stdout, "next: tarn controlplane %s; then start the other nodes with empty data directories and join = [%q]\n", c.Config, cfg.Advertise)
	return nil
}

func printState(a *app, s backup.Summary) error {
	if a.Quiet {
		fmt.Fprintln(a.stdout, s.Index)
		return nil
	}
	if a.Output != "table" {
		return printMachine(a, a.stdout, s)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "cluster\t%s\n", printable(s.Cluster))
	fmt.Fprintf(w, "taken at\t%s by node %s, tarn %s\n", s.TakenAt.Format(time.RFC3339), printable(s.NodeID), printable(s.Version))
	fmt.Fprintf(w, "state\tindex %d, term %d, hash %.16s\n", s.Index, s.Term, printable(s.Hash))
	fmt.Fprintf(w, "format\t%d, command version %d, %d bytes, checksum right\n", s.Format, s.CommandVersion, s.Size)
	fmt.Fprintf(w, "records\t%s\n", recordText(s.Records))
	for _, m := range s.Servers {
		fmt.Fprintf(w, "server\t%s at %s\n", printable(m.ID), printable(m.Address))
	}
	return w.Flush()
}

func recordText(records map[string]int) string {
	var parts []string
	for kind, n := range records {
		parts = append(parts, fmt.Sprintf("%s %d", kind, n))
	}
	if len(parts) == 0 {
		return "none"
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
