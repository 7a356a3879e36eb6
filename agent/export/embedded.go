package export

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/google/uuid"

	"tarn/agent/export/nfs3"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs/durable"
)

// EmbeddedConfig of an Embedded. Table, Key and Host are
// required, and Listen or Socket.
type EmbeddedConfig struct {
	// Table is the file of the durable table, mode 0600; its directory exists.
	Table string
	// Key is the file that holds what file handles are sealed with. It is made if
	// it does not exist.
	Key string
	// Host is the name or address under which clients know this machine.
	Host string
	// Listen is host:port of NFS version 3 and its MOUNT protocol, TCP.
	Listen string
	// Socket is used instead of opening Listen. Run closes it.
	Socket net.Listener
	// Serving tells whether a mountpoint may be served at this moment, for writing
	// if readOnly is false. It is asked before and after each request, so that an
	// agent that was stopped and goes on answers nothing that it has no lease for.
	// Nil always may.
	Serving func(mountpoint string, readOnly bool) bool
	// AnyPort admits clients from ports of 1024 and above, where any program of
	// theirs may claim to be any user.
	AnyPort bool
	Logger  *slog.Logger
}

// Embedded serves mountpoints by itself, over NFS version 3. Safe for concurrent use.
type Embedded struct {
	config EmbeddedConfig
	server *nfs3.Server

	mu    sync.Mutex
	table *table
}

// NewEmbedded reads the table, if there is one. Nothing is served before it is
// applied again: a restart has no right to serve yet.
func NewEmbedded(config EmbeddedConfig) (*Embedded, error) {
	if config.Table == "" || config.Key == "" || config.Host == "" || config.Listen == "" && config.Socket == nil {
		return nil, errors.New("embedded exporter needs a table file, a key file, a host and an address")
	}
	table, err := openTable(config.Table)
	if err != nil {
		return nil, err
	}
	key, err := handleKey(config.Key)
	if err != nil {
		return nil, err
	}
	server, err := nfs3.New(nfs3.Config{Key: key, Serving: config.Serving, AnyPort: config.AnyPort, Logger: config.Logger})
	if err != nil {
		return nil, err
	}
	return &Embedded{config: config, server: server, table: table}, nil
}

const handleKeyBytes = 32

// handleKey reads the key, or makes it. Another key makes all handles stale.
func handleKey(file string) ([]byte, error) {
	key, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, handleKeyBytes)
		_, _ = rand.Read(key) // never fails
		err = durable.Replace(file, key)
	}
	if err != nil {
		return nil, fmt.Errorf("key of file handles: %w", err)
	}
	if len(key) != handleKeyBytes {
		return nil, fmt.Errorf("key of file handles: %s has %d bytes, want %d: remove it, clients then mount again", file, len(key), handleKeyBytes)
	}
	return key, nil
}

// Run opens the port and serves until ctx ends.
func (e *Embedded) Run(ctx context.Context) error {
	ln := e.config.Socket
	if ln == nil {
		var err error
		if ln, err = net.Listen("tcp", e.config.Listen); err != nil {
			return fmt.Errorf("listen for NFS clients: %w", err)
		}
	}
	return e.server.Serve(ctx, ln)
}

// Apply puts the whole rule set of a mountpoint in force, for the next request of
// every client, and returns where clients find it.
func (e *Embedded) Apply(ctx context.Context, mountpoint string, want *tarnv1.Exports, readOnly bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	export, refused, err := plan(mountpoint, want, readOnly, anyPrefix)
	if err != nil {
		return nil, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.apply(export); err != nil {
		return nil, nil, fmt.Errorf("export %s: %w", mountpoint, err)
	}
	return reported(e.config.Host, mountpoint), refused, nil
}

func (e *Embedded) apply(export Export) error {
	if err := errors.Join(checkFSID(export.FSID), e.displace(export), e.table.taken(export)); err != nil {
		return err
	}
	id, err := uuid.Parse(export.FSID)
	if err != nil {
		return err
	}
	if err := e.table.put(export); err != nil {
		return err
	}
	_, below := mountedAt(export.Mountpoint)
	squash := map[Squash]nfs3.Squash{SquashNone: nfs3.SquashNone, SquashRoot: nfs3.SquashRoot, SquashAll: nfs3.SquashAll}
	return e.server.Export(nfs3.Export{
		Path: export.Mountpoint, FSID: nfs3.FSID(id), Squash: squash[export.Squash], Mount: below == nil,
		Access: func(addr netip.Addr) (bool, bool) {
			client, ok := access(export.Clients, addr)
			return client.ReadOnly, ok
		},
	})
}

// displace forgets where an earlier life of the agent served what is now to be served
// elsewhere: nobody serves it there, and nobody else would take it out of the table.
func (e *Embedded) displace(export Export) error {
	for _, old := range e.table.list() {
		if old.FSID != export.FSID || old.Mountpoint == export.Mountpoint || e.table.puts[old.Mountpoint] > 0 {
			continue
		}
		if err := e.table.remove(old.Mountpoint); err != nil {
			return err
		}
	}
	return nil
}

// Remove takes a mountpoint away from every client. When it returns nil no
// request is running in it and no file of it is open here.
func (e *Embedded) Remove(ctx context.Context, mountpoint string) error {
	// A request may wait for its file system, for ever: nobody else is to wait for that.
	e.mu.Lock()
	puts := e.table.puts[mountpoint]
	e.mu.Unlock()
	err := e.server.Unexport(ctx, mountpoint)
	if err == nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		err = e.table.removeSince(mountpoint, puts)
	}
	if err != nil {
		return fmt.Errorf("remove export %s: %w", mountpoint, err)
	}
	return nil
}

// List returns all exports by mountpoint.
func (e *Embedded) List(context.Context) ([]Export, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.table.list(), nil
}
