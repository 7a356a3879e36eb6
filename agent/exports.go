package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"tarn/agent/export"
	"tarn/agent/privsep"
	"tarn/agent/replicate"
	tarnv1 "tarn/proto/tarn/v1"
)

// Values of export.server.
const (
	exportNone     = "none"
	exportEmbedded = "embedded"
	exportKernel   = "kernel"
	exportGanesha  = "ganesha"
)

// Exporter serves shares to clients. Run keeps alive what it needs for that, until
// its context ends.
type Exporter interface {
	replicate.Exporter
	Run(ctx context.Context) error
	List(ctx context.Context) ([]export.Export, error)
}

// recordedExporter leaves word for the dead-man.
type recordedExporter interface {
	Exporter
	export.Recorder
}

func (a *Agent) buildExports() (err error) {
	if a.cfg.Helper.Socket != "" {
		a.exports = privsep.Client{Socket: a.cfg.Helper.Socket}
		return nil
	}
	a.exports, err = openExports(a.cfg, a.mayServe, a.log)
	return err
}

// mayServe tells the embedded server whether a request may be answered now. It is
// asked at the clock's word before and after each one, so that an agent that was
// stopped serves nothing when it goes on; with other servers the dead-man sees to it.
func (a *Agent) mayServe(mountpoint string, readOnly bool) bool {
	as := a.mountedAt(mountpoint)
	switch as.GetRole() {
	case tarnv1.Role_ROLE_ACTIVE:
		return a.keeper.Held(as.GetShareId(), as.GetReplicaId(), as.GetEpoch())
	case tarnv1.Role_ROLE_SECONDARY:
		return readOnly
	}
	return false
}

// mountedAt finds the replica of a mountpoint, whose last part is its id unless an
// administrator mounted it elsewhere; nil if there is none.
func (a *Agent) mountedAt(mountpoint string) *tarnv1.Assignment {
	if as := a.workers.assignment(filepath.Base(mountpoint)); as != nil {
		return as
	}
	for _, as := range a.workers.assignments() {
		if a.workers.report(as.GetReplicaId()).GetMountpoint() == mountpoint {
			return as
		}
	}
	return nil
}

// openExports makes the exporter that cfg names. Each kind has its own table, so
// that none takes another's exports for its own.
func openExports(cfg Config, serving func(string, bool) bool, log *slog.Logger) (recordedExporter, error) {
	e := cfg.Export
	table := filepath.Join(cfg.DataDir, "exports-"+e.Server+".json")
	switch e.Server {
	case exportNone:
		return export.NewDirectory(export.DirectoryConfig{File: filepath.Join(cfg.DataDir, "exports.json"), Host: cfg.ExportHost})
	case exportEmbedded:
		return export.NewEmbedded(export.EmbeddedConfig{
			Table: table, Key: filepath.Join(cfg.DataDir, "nfs.key"), Host: cfg.ExportHost, Listen: e.Listen,
			Serving: serving, AnyPort: e.AnyPort, Logger: log,
		})
	case exportKernel:
		return export.NewKernel(export.KernelConfig{Table: table, Host: cfg.ExportHost, Dir: e.ExportsDir, AnyPort: e.AnyPort})
	case exportGanesha:
		c := export.GaneshaConfig{Table: table, Host: cfg.ExportHost, AnyPort: e.AnyPort, Exports: e.ExportsDir, Bus: e.Bus, Mounts: cfg.Storage == StorageZFS, Logger: log}
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
