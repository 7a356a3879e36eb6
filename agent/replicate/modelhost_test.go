package replicate

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"tarn/zfs"
)

// What the model knows of ZFS and of the server that exports it, small enough to be
// compared: snapshots are numbers in the order in which they were taken.

const (
	maxGUID   = 7
	maxAsides = 2
)

// born says how a snapshot came to be. Its content is what it was taken of, and all
// that its parents have.
type born struct {
	parent uint8 // snapshot that the file system stood on; 0 for none
	kind   uint8
	epoch  uint8 // in the snapshot's name
	nth    uint8 // of that name
}

const (
	bornPlain uint8 = iota + 1
	bornFinal
	bornDivergent
	bornUser
)

// history tells of every snapshot, by its GUID less one.
type history [maxGUID]born

// dataset is one file system.
type dataset struct {
	there, mounted, readOnly, bootMount bool

	role, epoch uint8 // marks
	op          uint8 // 0, the number of a promotion, or rebasing and a GUID
	snaps       uint8 // one bit per GUID
	origin      uint8 // GUID of the snapshot that it is a clone of
	dirty       bool  // written since the newest snapshot
	// name of what was put aside: the epoch and a number.
	nameEpoch, nameNth uint8
}

const rebasing uint8 = 0x40

// disk is what a host has: its replica's file system, what was put aside, and what
// the server lets clients reach. The latter does not outlive the kernel.
type disk struct {
	main     dataset
	asides   [maxAsides]dataset
	exported uint8
}

const (
	exportedNone uint8 = iota
	exportedRO
	exportedRW
)

func bit(guid uint8) uint8 {
	if guid == 0 {
		return 0
	}
	return 1 << (guid - 1)
}

func newest(snaps uint8) uint8 { return uint8(bits.Len8(snaps)) }

// base is the snapshot that the live file system stands on.
func (d dataset) base() uint8 {
	if d.snaps != 0 {
		return newest(d.snaps)
	}
	return d.origin
}

// content has a bit for each snapshot whose writes are in guid.
func (h history) content(guid uint8) (set uint8) {
	for ; guid != 0; guid = h[guid-1].parent {
		set |= bit(guid)
	}
	return set
}

// has has a bit for each snapshot whose writes are somewhere on the disk.
func (d disk) has(h history) (set uint8) {
	for _, ds := range append(d.asides[:], d.main) {
		if !ds.there {
			continue
		}
		set |= h.content(ds.base())
		for g := uint8(1); g <= maxGUID; g++ {
			if ds.snaps&bit(g) != 0 {
				set |= h.content(g)
			}
		}
	}
	return set
}

// dirt counts file systems with writes that no snapshot has.
func (d disk) dirt() (n int) {
	for _, ds := range append(d.asides[:], d.main) {
		if ds.there && ds.dirty {
			n++
		}
	}
	return n
}

// serving reports that clients can write.
func (d disk) serving() bool {
	return d.main.there && d.main.mounted && !d.main.readOnly && d.exported == exportedRW
}

// fence is what the dead-man does.
func (d disk) fence() disk {
	d.exported, d.main.mounted, d.main.readOnly = exportedNone, false, true
	return d
}

// boot is what a kernel that starts makes of it.
func (d disk) boot() disk {
	d.exported = exportedNone
	d.main.mounted = d.main.there && d.main.bootMount
	if d.main.mounted {
		d.exported = exportedRW // whoever mounts at boot shares at boot (sharenfs)
		if d.main.readOnly {
			d.exported = exportedRO
		}
	}
	return d
}

// errKilled ends what a process was doing when it died.
var errKilled = errors.New("the process died here")

// box is a host as a Worker sees it: an Engine and an Exporter on a disk.
type box struct {
	Engine // what is not below must not be called
	disk   disk
	past   history
	name   string // of the replica
	// changes counts what was changed; the process dies before the change after dieAt.
	changes, dieAt int
	full           bool // there is no number left for a snapshot
}

const (
	modelPool  = "p"
	modelBase  = "tarn"
	modelShare = "share"
)

var modelTime = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func (b *box) layout() layout {
	return layout{pool: modelPool, base: modelBase, share: modelShare, replica: b.name}
}

// Get: nobody set a property by hand.
func (b *box) Get(context.Context, string, ...string) (map[string]zfs.Property, error) {
	return nil, nil
}

// find gives the dataset of a name, nil if there is none.
func (b *box) find(name string) *dataset {
	if name == b.layout().dataset() && b.disk.main.there {
		return &b.disk.main
	}
	for i := range b.disk.asides {
		if d := &b.disk.asides[i]; d.there && name == b.asideName(d) {
			return d
		}
	}
	return nil
}

func (b *box) asideName(d *dataset) string {
	return b.layout().aside(uint64(d.nameEpoch), int(d.nameNth))
}

func (b *box) nameOf(d *dataset) string {
	if d == &b.disk.main {
		return b.layout().dataset()
	}
	return b.asideName(d)
}

func (b *box) all() []*dataset {
	var list []*dataset
	for i := range b.disk.asides {
		if b.disk.asides[i].there {
			list = append(list, &b.disk.asides[i])
		}
	}
	if b.disk.main.there {
		list = append(list, &b.disk.main)
	}
	return list
}

// change counts one; the process may die before it.
func (b *box) change() error {
	if b.dieAt >= 0 && b.changes >= b.dieAt {
		return errKilled
	}
	b.changes++
	return nil
}

func missing(op, name string) error { return &zfs.Error{Op: op, Object: name, Class: zfs.ErrNotExist} }

func (b *box) snapName(guid uint8) string {
	s := b.past[guid-1]
	name, nth := "", ""
	if s.nth > 0 {
		nth = "." + strconv.Itoa(int(s.nth))
	}
	switch s.kind {
	case bornPlain:
		name = replicationName(modelShare, uint64(s.epoch), uint64(guid))
	case bornFinal:
		name = finalPrefix + strconv.Itoa(int(s.epoch)) + nth
	case bornDivergent:
		name = divergentPrefix + strconv.Itoa(int(s.epoch)) + nth
	case bornUser:
		name = userPrefix + modelSnapshot
	}
	return name
}

func (b *box) show(d *dataset) zfs.Dataset {
	out := zfs.Dataset{
		Name: b.nameOf(d), GUID: 99, Mounted: d.mounted, Mountpoint: "/" + b.nameOf(d), ReadOnly: d.readOnly,
		User: map[string]zfs.Property{},
	}
	if d.dirty {
		out.Written = 1
	}
	if d.origin != 0 {
		for _, other := range b.all() {
			if other.snaps&bit(d.origin) != 0 {
				out.Origin = b.nameOf(other) + "@" + b.snapName(d.origin)
			}
		}
	}
	m := marks{share: modelShare, replica: b.name, role: roleNames[d.role], epoch: uint64(d.epoch), op: opName(d.op)}
	for k, v := range m.properties() {
		out.User[k] = zfs.Property{Value: v, Source: zfs.SourceLocal}
	}
	return out
}

var roleNames = []string{"", rolePrimary, roleReplica, roleFenced, roleDivergent}

func opName(op uint8) string {
	switch {
	case op == 0:
		return ""
	case op&rebasing != 0:
		return rebasePrefix + strconv.Itoa(int(op&^rebasing))
	}
	return "op" + strconv.Itoa(int(op))
}

func opNumber(name string) uint8 {
	if rest, ok := strings.CutPrefix(name, rebasePrefix); ok {
		return rebasing | number(rest)
	}
	if name == noOp || name == "" {
		return 0
	}
	return number(strings.TrimPrefix(name, "op"))
}

func number(text string) uint8 {
	n, err := strconv.ParseUint(text, 10, 6)
	if err != nil {
		panic(fmt.Sprintf("%q is no number of the model: %v", text, err))
	}
	return uint8(n)
}

// The methods of Engine.

func (b *box) Dataset(_ context.Context, name string) (zfs.Dataset, error) {
	if name == modelPool {
		return zfs.Dataset{Name: name}, nil
	}
	if d := b.find(name); d != nil {
		return b.show(d), nil
	}
	return zfs.Dataset{}, missing("get", name)
}

func (b *box) Datasets(_ context.Context, root string) ([]zfs.Dataset, error) {
	var list []zfs.Dataset
	for _, d := range b.all() {
		if strings.HasPrefix(b.nameOf(d), root+"/") {
			list = append(list, b.show(d))
		}
	}
	if len(list) == 0 {
		return nil, missing("list", root)
	}
	return list, nil
}

func (b *box) Versions(_ context.Context, name string) ([]zfs.Version, error) {
	d := b.find(name)
	if d == nil {
		return nil, missing("list", name)
	}
	return b.versions(d), nil
}

func (b *box) versions(d *dataset) (list []zfs.Version) {
	for g := uint8(1); g <= maxGUID; g++ {
		if d.snaps&bit(g) != 0 {
			list = append(list, zfs.Version{
				Kind: zfs.KindSnapshot, Dataset: b.nameOf(d), Name: b.snapName(g), GUID: zfs.GUID(g), CreateTXG: uint64(g), Creation: modelTime,
			})
		}
	}
	return list
}

func (b *box) Create(_ context.Context, name string, _ map[string]string, _ bool) error {
	if name == b.layout().divergents() {
		return nil // directories are no part of the model
	}
	return fmt.Errorf("the model creates no dataset %s: %w", name, zfs.ErrUnsupported)
}

func (b *box) Set(_ context.Context, name string, props map[string]string) error {
	d := b.find(name)
	if d == nil {
		return missing("set", name)
	}
	if err := b.change(); err != nil {
		return err
	}
	b.set(d, props)
	return nil
}

func (b *box) set(d *dataset, props map[string]string) {
	for k, v := range props {
		switch k {
		case markRole:
			for i, r := range roleNames {
				if r == v {
					d.role = uint8(i)
				}
			}
		case markEpoch:
			d.epoch = number(v)
		case markOp:
			d.op = opNumber(v)
		case zfs.PropReadOnly:
			d.readOnly = v == on
		case zfs.PropCanMount:
			d.bootMount = v == on
		}
	}
}
