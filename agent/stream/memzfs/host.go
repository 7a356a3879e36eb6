package memzfs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn/zfs"
)

// Host is a set of pools. Safe for concurrent use.
type Host struct {
	mu    sync.Mutex
	all   map[string]*dataset
	txg   uint64
	guid  uint64
	calls int
	// Before, if set, is asked before every operation, with the host unlocked; its
	// error is the operation's. After is asked when the effect is in place.
	Before func(call int, op, object string) error
	After  func(call int, op, object string) error
	// Busy names datasets that somebody has open: a polite unmount fails, mounted or
	// not; a forced one ends it.
	Busy map[string]bool
}

type dataset struct {
	name    string
	guid    zfs.GUID
	txg     uint64
	props   map[string]string
	mounted bool
	origin  *snapshot
	data    []byte
	written int64
	snaps   []*snapshot
	marks   []zfs.Version
	partial *partial
	secret  *secret // nil: not encrypted
	split   bool    // it came by a stream without large blocks
}

type snapshot struct {
	of       *dataset
	name     string
	guid     zfs.GUID
	txg      uint64
	creation time.Time
	data     []byte
	holds    map[string]time.Time
}

// New makes a host with the named pools. Seed tells hosts of one test apart: GUIDs
// of different seeds never meet.
func New(seed uint64, pools ...string) *Host {
	h := &Host{all: map[string]*dataset{}, guid: seed << 32, Busy: map[string]bool{}}
	for _, p := range pools {
		h.all[p] = h.newDataset(p, nil)
	}
	return h
}

func (h *Host) newDataset(name string, props map[string]string) *dataset {
	h.txg++
	h.guid++
	d := &dataset{name: name, guid: zfs.GUID(h.guid), txg: h.txg, props: maps.Clone(props)}
	if d.props == nil {
		d.props = map[string]string{}
	}
	return d
}

func fail(op, object string, class error) error {
	return &zfs.Error{Op: op, Object: object, Class: class}
}

// enter counts and vets an operation and leaves the host locked.
func (h *Host) enter(ctx context.Context, op, object string) error {
	h.mu.Lock()
	h.calls++
	call, before := h.calls, h.Before
	h.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if before != nil {
		if err := before(call, op, object); err != nil {
			return err
		}
	}
	h.mu.Lock()
	return nil
}

// leave unlocks, and may turn success into the failure of a process that died
// before it heard of it.
func (h *Host) leave(op, object string, err error) error {
	call, after := h.calls, h.After
	h.mu.Unlock()
	if err == nil && after != nil {
		return after(call, op, object)
	}
	return err
}

// do runs f under the lock.
func (h *Host) do(ctx context.Context, op, object string, f func() error) error {
	if err := h.enter(ctx, op, object); err != nil {
		return err
	}
	err := f()
	return h.leave(op, object, err)
}

func (h *Host) get(op, name string) (*dataset, error) {
	d, ok := h.all[name]
	if !ok {
		return nil, fail(op, name, zfs.ErrNotExist)
	}
	return d, nil
}

// snapshotNamed finds "dataset@name".
func (h *Host) snapshotNamed(op, full string) (*snapshot, error) {
	ds, name, err := zfs.ValidateSnapshot(full)
	if err != nil {
		return nil, err
	}
	d, err := h.get(op, ds)
	if err != nil {
		return nil, err
	}
	for _, s := range d.snaps {
		if s.name == name {
			return s, nil
		}
	}
	return nil, fail(op, full, zfs.ErrNotExist)
}

func (d *dataset) show() zfs.Dataset {
	out := zfs.Dataset{
		Name: d.name, GUID: d.guid, CreateTXG: d.txg, Mounted: d.mounted, Mountpoint: d.path(),
		ReadOnly: d.props[zfs.PropReadOnly] == "on", Used: int64(len(d.data)), Referenced: int64(len(d.data)),
		Available: 1 << 40, Written: d.written, User: map[string]zfs.Property{},
	}
	if d.origin != nil {
		out.Origin = d.origin.of.name + "@" + d.origin.name
	}
	if d.partial != nil {
		out.ResumeToken = d.partial.token()
	}
	if q := d.props[zfs.PropQuota]; q != "" && q != "none" {
		_, _ = fmt.Sscan(q, &out.Quota)
	}
	if q := d.props[zfs.PropRefQuota]; q != "" && q != "none" {
		_, _ = fmt.Sscan(q, &out.RefQuota)
	}
	d.showKey(&out)
	for k, v := range d.props {
		if strings.Contains(k, ":") {
			out.User[k] = zfs.Property{Value: v, Source: zfs.SourceLocal}
		}
	}
	return out
}

// Create makes a filesystem.
func (h *Host) Create(ctx context.Context, name string, props map[string]string, parents bool) error {
	return h.do(ctx, "create", name, func() error {
		if _, ok := h.all[name]; ok {
			return fail("create", name, zfs.ErrExists)
		}
		parent := name[:max(0, strings.LastIndexByte(name, '/'))]
		for p := parent; h.all[p] == nil; p = p[:max(0, strings.LastIndexByte(p, '/'))] {
			if !parents || p == "" {
				return fail("create", name, zfs.ErrNotExist)
			}
			h.all[p] = h.newDataset(p, map[string]string{zfs.PropCanMount: "off"})
		}
		d := h.newDataset(name, props)
		if err := d.encrypt(props); err != nil {
			return err
		}
		h.all[name] = d
		return nil
	})
}

// Dataset shows one.
func (h *Host) Dataset(ctx context.Context, name string) (out zfs.Dataset, err error) {
	err = h.do(ctx, "get", name, func() error {
		d, err := h.get("get", name)
		if err == nil {
			out = d.show()
		}
		return err
	})
	return out, err
}

// Datasets shows root and all below it in name order.
func (h *Host) Datasets(ctx context.Context, root string) (out []zfs.Dataset, err error) {
	err = h.do(ctx, "list", root, func() error {
		if _, err := h.get("list", root); err != nil {
			return err
		}
		for name, d := range h.all {
			if name == root || strings.HasPrefix(name, root+"/") {
				out = append(out, d.show())
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b zfs.Dataset) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// Destroy removes a filesystem that has nothing.
func (h *Host) Destroy(ctx context.Context, name string) error {
	return h.do(ctx, "destroy", name, func() error {
		d, err := h.get("destroy", name)
		if err != nil {
			return err
		}
		if d.mounted {
			return fail("destroy", name, zfs.ErrBusy)
		}
		if len(d.snaps) > 0 || h.children(name) > 0 {
			return fail("destroy", name, zfs.ErrHasSnapshots)
		}
		delete(h.all, name)
		return nil
	})
}

func (h *Host) children(name string) int {
	n := 0
	for other := range h.all {
		if strings.HasPrefix(other, name+"/") {
			n++
		}
	}
	return n
}

// Rename moves a filesystem.
func (h *Host) Rename(ctx context.Context, from, to string) error {
	return h.do(ctx, "rename", from, func() error {
		d, err := h.get("rename", from)
		if err != nil {
			return err
		}
		if _, err := h.get("rename", to[:max(0, strings.LastIndexByte(to, '/'))]); err != nil {
			return err
		}
		if _, ok := h.all[to]; ok {
			return fail("rename", to, zfs.ErrExists)
		}
		if d.mounted || h.children(from) > 0 {
			return fail("rename", from, zfs.ErrBusy)
		}
		delete(h.all, from)
		d.name = to
		h.all[to] = d
		return nil
	})
}

// Mount makes a filesystem reachable.
func (h *Host) Mount(ctx context.Context, name string) error {
	return h.do(ctx, "mount", name, func() error {
		d, err := h.get("mount", name)
		if err == nil && d.locked() {
			err = fail("mount", name, zfs.ErrKey)
		}
		if err == nil {
			d.mounted = true
		}
		return err
	})
}

// Unmount ends that, if Busy lets it.
func (h *Host) Unmount(ctx context.Context, name string, force bool) error {
	return h.do(ctx, "unmount", name, func() error {
		d, err := h.get("unmount", name)
		if err != nil {
			return err
		}
		if h.Busy[name] && !force {
			return fail("unmount", name, zfs.ErrBusy)
		}
		delete(h.Busy, name)
		d.mounted = false
		return nil
	})
}

// Fence unmounts behind everybody's back, as the dead-man does.
func (h *Host) Fence(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.all[name]; d != nil {
		d.mounted = false
	}
}

// Write appends to a filesystem as a client does: only where it is mounted and
// writable. Root clients ignore read-only.
func (h *Host) Write(name, text string, root bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.get("write", name)
	if err != nil {
		return err
	}
	if !d.mounted && !root {
		return fail("write", name, zfs.ErrNotMounted)
	}
	if d.props[zfs.PropReadOnly] == "on" && !root {
		return fail("write", name, zfs.ErrReadOnly)
	}
	lying, err := d.crypt([]byte(text), len(d.data))
	if err != nil {
		return err
	}
	d.data = append(slices.Clone(d.data), lying...)
	d.written += int64(len(text))
	return nil
}

// Read gives the content of a filesystem.
func (h *Host) Read(name string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.get("read", name)
	if err != nil {
		return "", err
	}
	text, err := d.crypt(d.data, 0)
	return string(text), err
}

// Lying is what is on the disk of a filesystem.
func (h *Host) Lying(name string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.all[name]; d != nil {
		return string(d.data)
	}
	return ""
}

// Calls is how many operations were asked for.
func (h *Host) Calls() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls
}

// SetHooks replaces Before and After.
func (h *Host) SetHooks(before, after func(call int, op, object string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Before, h.After = before, after
}

// SetBusy says if a filesystem is held open by somebody.
func (h *Host) SetBusy(name string, busy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Busy[name] = busy
}

// Peek looks at a filesystem and its snapshots past all hooks.
func (h *Host) Peek(name string) (zfs.Dataset, []zfs.Version, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, ok := h.all[name]
	if !ok {
		return zfs.Dataset{}, nil, false
	}
	return d.show(), d.versions(), true
}
