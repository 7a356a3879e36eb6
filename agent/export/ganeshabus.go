package export

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Ganesha's names on the message bus.
const (
	ganeshaName   = "org.ganesha.nfsd"
	ganeshaPath   = "/org/ganesha/nfsd/ExportMgr"
	ganeshaExport = "org.ganesha.nfsd.exportmgr."
)

// busTimeout bounds one request to Ganesha; it answers in tens of milliseconds.
const busTimeout = 10 * time.Second

// bus is one connection to a message bus that Ganesha is on.
type bus struct {
	conn *dbus.Conn
	end  context.CancelFunc
}

// dialBus connects to the bus at address, "" or "system" for the system's. A daemon that
// does not answer is given up with ctx, after busTimeout at the latest.
func dialBus(ctx context.Context, address string) (*bus, error) {
	dialing, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	// The connection's own, which outlives the dialing: its end closes the connection.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	dialed := context.AfterFunc(dialing, end)
	var conn *dbus.Conn
	var err error
	if address == "" || address == "system" {
		conn, err = dbus.ConnectSystemBus(dbus.WithContext(life))
	} else {
		conn, err = dbus.Connect(address, dbus.WithContext(life))
	}
	if !dialed() && err == nil {
		_ = conn.Close() // it is closing already
		err = dialing.Err()
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("connect to the message bus of NFS-Ganesha: %w", errors.Join(dialing.Err(), err))
	}
	return &bus{conn: conn, end: end}, nil
}

func (b *bus) close() {
	_ = b.conn.Close() // nothing is in flight
	b.end()
}

// call asks the export manager; results are stored into out.
func (b *bus) call(ctx context.Context, method string, out []any, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	call := b.conn.Object(ganeshaName, ganeshaPath).CallWithContext(ctx, ganeshaExport+method, 0, args...)
	if call.Err != nil {
		return fmt.Errorf("NFS-Ganesha %s: %w", method, call.Err)
	}
	if len(out) == 0 {
		return nil
	}
	if err := call.Store(out...); err != nil {
		return fmt.Errorf("NFS-Ganesha %s: %w", method, err)
	}
	return nil
}

func (b *bus) add(ctx context.Context, file string, id uint16) error {
	return b.load(ctx, "AddExport", file, id)
}

func (b *bus) update(ctx context.Context, file string, id uint16) error {
	return b.load(ctx, "UpdateExport", file, id)
}

// load makes Ganesha read one export of a file. It answers with success and a
// text of errors when it understood the file in part.
func (b *bus) load(ctx context.Context, method, file string, id uint16) error {
	var said string
	err := b.call(ctx, method, []any{&said}, file, fmt.Sprintf("EXPORT(Export_Id=%d)", id))
	if err == nil && strings.Contains(said, "Errors found") {
		return fmt.Errorf("NFS-Ganesha %s: %s", method, said)
	}
	return err
}

func (b *bus) remove(ctx context.Context, id uint16) error {
	return b.call(ctx, "RemoveExport", nil, id)
}

// removeAll takes every export of the mountpoints away.
func (b *bus) removeAll(ctx context.Context, mountpoints []string) error {
	for range 2 { // the second time to see that they are gone
		inUse, err := b.ids(ctx)
		if err != nil {
			return err
		}
		found := false
		for id, path := range inUse {
			if slices.Contains(mountpoints, path) {
				found = true
				if err := b.remove(ctx, id); err != nil {
					return err
				}
			}
		}
		if !found {
			return nil
		}
	}
	return fmt.Errorf("NFS-Ganesha still serves one of %v after it was told not to", mountpoints)
}

// ganeshaExportInfo is an export as Ganesha describes it.
type ganeshaExportInfo struct {
	id           uint16
	path, pseudo string
	clients      []ganeshaClient
	// foreign are clients that tarn cannot have asked for: names, netgroups, "*".
	foreign []string
}

// errNoExport says that Ganesha has no export of this id.
var errNoExport = errors.New("no such export")

// show reads one export back; errNoExport when there is none.
func (b *bus) show(ctx context.Context, id uint16) (ganeshaExportInfo, error) {
	info := ganeshaExportInfo{id: id}
	var tag string
	var clients []struct {
		Client                  string
		Version                 int32
		Address, Mask           byte
		Proto                   int32
		AnonUID, AnonGID        uint32
		Expire, Options, Chosen uint32
	}
	err := b.call(ctx, "DisplayExport", []any{&info.id, &info.path, &info.pseudo, &tag, &clients}, id)
	if failure, ok := errors.AsType[dbus.Error](err); ok && strings.Contains(failure.Error(), "not found") {
		return info, errNoExport
	}
	if err != nil {
		return info, err
	}
	for _, c := range clients {
		p, err := netip.ParsePrefix(c.Client)
		if err != nil {
			info.foreign = append(info.foreign, c.Client)
			continue
		}
		info.clients = append(info.clients, ganeshaClient{Prefix: p, Bits: c.Options & ganeshaBits, UID: c.AnonUID, GID: c.AnonGID})
	}
	return info, nil
}

// ids lists the paths of all exports by id.
func (b *bus) ids(ctx context.Context) (map[uint16]string, error) {
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	call := b.conn.Object(ganeshaName, ganeshaPath).CallWithContext(ctx, ganeshaExport+"ShowExports", 0)
	if call.Err != nil {
		return nil, fmt.Errorf("NFS-Ganesha ShowExports: %w", call.Err)
	}
	return exportIDs(call.Body)
}

var errAnswer = errors.New("answer of NFS-Ganesha is not understood")

// exportIDs reads the answer of ShowExports: a time, then a list of exports of
// which the first two fields are id and path; what follows differs by version.
func exportIDs(body []any) (map[uint16]string, error) {
	ids := map[uint16]string{}
	if len(body) != 2 {
		return nil, errAnswer
	}
	exports, ok := body[1].([][]any)
	if !ok {
		return nil, errAnswer
	}
	for _, fields := range exports {
		if len(fields) < 2 {
			return nil, errAnswer
		}
		id, ok := fields[0].(uint16)
		path, ok2 := fields[1].(string)
		if !ok || !ok2 {
			return nil, errAnswer
		}
		ids[id] = path
	}
	return ids, nil
}
