package export

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	tarnv1 "tarn/proto/tarn/v1"
)

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
	table *table
}

// NewDirectory reads the table, if there is one.
func NewDirectory(config DirectoryConfig) (*Directory, error) {
	if config.File == "" || config.Host == "" {
		return nil, errors.New("directory exporter needs a file and a host")
	}
	table, err := openTable(config.File)
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
	export, refused, err := plan(mountpoint, want, readOnly, anyPrefix)
	if err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.table.put(export); err != nil {
		return nil, nil, fmt.Errorf("export %s: %w", mountpoint, err)
	}
	return reported(d.config.Host, mountpoint), refused, nil
}

// Remove takes a mountpoint away; one that is not exported is no error.
func (d *Directory) Remove(ctx context.Context, mountpoint string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.table.remove(mountpoint); err != nil {
		return fmt.Errorf("remove export %s: %w", mountpoint, err)
	}
	return nil
}

// List returns all exports by mountpoint.
func (d *Directory) List(context.Context) ([]Export, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.table.list(), nil
}

// Run returns when ctx ends: a table needs nobody to serve it.
func (d *Directory) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// reported is host:mountpoint, an IPv6 address in brackets.
func reported(host, mountpoint string) []*tarnv1.ReportedExport {
	if net.ParseIP(host) != nil && strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return []*tarnv1.ReportedExport{{Path: host + ":" + mountpoint, Preferred: true}}
}
