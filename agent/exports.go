package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"tarn/agent/export"
	"tarn/agent/replicate"
)

// Values of export.server.
const (
	exportNone    = "none"
	exportKernel  = "kernel"
	exportGanesha = "ganesha"
)

// Exporter serves shares to clients. Run keeps alive what it needs for that, until
// its context ends.
type Exporter interface {
	replicate.Exporter
	Run(ctx context.Context) error
	List(ctx context.Context) ([]export.Export, error)
}

// openExports makes the exporter that cfg names. Each kind has its own table, so
// that none takes another's exports for its own.
func openExports(cfg Config, log *slog.Logger) (Exporter, error) {
	e := cfg.Export
	table := filepath.Join(cfg.DataDir, "exports-"+e.Server+".json")
	switch e.Server {
	case exportNone:
		return export.NewDirectory(export.DirectoryConfig{File: filepath.Join(cfg.DataDir, "exports.json"), Host: cfg.ExportHost})
	case exportKernel:
		return export.NewKernel(export.KernelConfig{Table: table, Host: cfg.ExportHost, Dir: e.ExportsDir, AnyPort: e.AnyPort})
	case exportGanesha:
		c := export.GaneshaConfig{Table: table, Host: cfg.ExportHost, AnyPort: e.AnyPort, Exports: e.ExportsDir, Bus: e.Bus, Logger: log}
		if e.Listen != "" {
			var err error
			if c.Listen, err = netip.ParseAddrPort(e.Listen); err != nil {
				return nil, fmt.Errorf("export.listen: %w", err)
			}
			c.Dir = filepath.Join(cfg.DataDir, "ganesha")
		}
		return export.NewGanesha(c)
	}
	return nil, fmt.Errorf("this build has no export server %q", e.Server)
}
