package replicate

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Marks of a dataset that was there before tarn.
const (
	// markFrom is its former full name, markWas what it was like, as a form of was.
	markFrom = "tarn:managed-from"
	markWas  = "tarn:managed-was"
	tarnMark = "tarn:" // starts every mark
	// releasedPrefix and the replica's id are the mark of what is what it was again.
	releasedPrefix = "released."
)

// propShareNFS and propShareSMB let ZFS itself export what it mounts, past the
// share's access rules. Not every engine has them.
const (
	propShareNFS = "sharenfs"
	propShareSMB = "sharesmb"
	// propChildren is the space of all below, volumes included.
	propChildren  = "usedbychildren"
	propKeyRoot   = "encryptionroot"
	propKeyStatus = "keystatus"
)

// former is a dataset as it is under the name that it had before tarn.
type former struct {
	ds    zfs.Dataset
	marks marks
	// below is the name of one dataset below it, "" for none.
	below string
	// volume: it is no file system.
	volume bool
	// keyRoot is the dataset whose key it is encrypted with, "" for none; locked: that
	// key is not loaded.
	keyRoot string
	locked  bool
}

// was is how a dataset was before it was taken over: what is to be put back.
type was struct {
	// props are values of its own, by property; those not in it were inherited.
	props   map[string]string
	mounted bool
	// path is where it was or would have been mounted; "" for none.
	path string
}

// exports are the exports of ZFS's own that have to be switched off.
func (w was) exports() []string {
	var list []string
	for _, name := range []string{propShareNFS, propShareSMB} {
		if v, own := w.props[name]; own && v != off {
			list = append(list, name)
		}
	}
	return list
}

// managedProps are the properties that tarn changes for good.
func managedProps() []string {
	return []string{zfs.PropReadOnly, zfs.PropCanMount, zfs.PropMountpoint, zfs.PropQuota, zfs.PropRefQuota}
}

// String is the value of markWas.
func (w was) String() string {
	v := url.Values{}
	for name, value := range w.props {
		v.Set("prop."+name, value)
	}
	if w.mounted {
		v.Set("mounted", "yes")
	}
	v.Set("path", w.path)
	return v.Encode()
}

// parseWas reads the value of markWas. Marks can be edited by anybody with the right
// to do so: unknown keys and properties that tarn does not manage are an error.
func parseWas(text string) (was, error) {
	v, err := url.ParseQuery(text)
	if err != nil {
		return was{}, fmt.Errorf("read %s %q: %v: %w", markWas, text, err, zfs.ErrInvalid)
	}
	w := was{props: map[string]string{}, mounted: v.Get("mounted") == "yes", path: v.Get("path")}
	for key := range v {
		name, prop := strings.CutPrefix(key, "prop.")
		switch {
		case prop && slices.Contains(append(managedProps(), propShareNFS, propShareSMB), name):
			w.props[name] = v.Get(key)
		case prop || key != "mounted" && key != "path":
			return was{}, fmt.Errorf("%s has %q: %w", markWas, key, zfs.ErrInvalid)
		}
	}
	if w.path != "" && (!path.IsAbs(w.path) || path.Clean(w.path) != w.path) {
		return was{}, fmt.Errorf("%s has path %q: %w", markWas, w.path, zfs.ErrInvalid)
	}
	return w, nil
}

// observeFormer looks at the dataset that is to be taken over, or the name that this
// one is to be given back under.
func (w *Worker) observeFormer(ctx context.Context, f *facts) error {
	from := w.s.a.GetManagedFrom()
	if !w.s.needsFormer(f.ds) || zfs.ValidateDataset(from) != nil {
		return nil
	}
	parent, err := w.dataset(ctx, path.Dir(from))
	if err != nil {
		return err
	}
	f.orphan = parent == nil
	f.former, err = lookFormer(ctx, w.cfg.Engine, from)
	return err
}

// lookFormer looks at a dataset that may not be tarn's; nil if there is none.
func lookFormer(ctx context.Context, e Engine, from string) (*former, error) {
	list, err := e.Datasets(ctx, from)
	f := &former{ds: zfs.Dataset{Name: from}, volume: true} // file systems alone are listed
	switch {
	case errors.Is(err, zfs.ErrNotExist):
		return nil, nil
	case errors.Is(err, zfs.ErrInvalid): // so says the kernel's of what is none
		return f, nil
	case err != nil:
		return nil, fmt.Errorf("look at %s: %w", from, err)
	}
	for _, d := range list {
		switch {
		case d.Name == from:
			f.ds, f.marks, f.volume = d, marksOf(d), false
		case f.below == "":
			f.below = d.Name
		}
	}
	return f, f.lookDeeper(ctx, e)
}

// lookDeeper finds what listings of file systems do not show: volumes below, and keys.
func (f *former) lookDeeper(ctx context.Context, e Properties) error {
	children, err := getKnown(ctx, e, f.ds.Name, propChildren)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseInt(children[propChildren].Value, 10, 64); err == nil && n > 0 && f.below == "" {
		f.below = "a volume"
	}
	key, err := getKnown(ctx, e, f.ds.Name, propKeyRoot, propKeyStatus)
	if err != nil {
		return err
	}
	if root := key[propKeyRoot].Value; root != "-" {
		f.keyRoot, f.locked = root, key[propKeyStatus].Value == "unavailable"
	}
	return nil
}

// getKnown reads properties that some engines and versions do not have.
func getKnown(ctx context.Context, e Properties, name string, props ...string) (map[string]zfs.Property, error) {
	found, err := e.Get(ctx, name, props...)
	if err != nil && !errors.Is(err, zfs.ErrInvalid) && !errors.Is(err, zfs.ErrUnsupported) {
		return nil, fmt.Errorf("look at properties of %s: %w", name, err)
	}
	return found, nil
}

// record notes on the dataset whose it is to become and what it was like. Nothing
// else of it has been changed before.
func (w *Worker) record(ctx context.Context) error {
	d := w.s.f.former.ds
	before, err := before(ctx, w.cfg.Engine, d)
	if err != nil {
		return err
	}
	err = w.cfg.Engine.Set(ctx, d.Name, map[string]string{markFrom: d.Name, markWas: before.String()})
	if err != nil {
		return fmt.Errorf("record what the dataset is like: %w", err)
	}
	return w.cfg.Engine.Set(ctx, d.Name, map[string]string{markShare: w.cfg.ShareID, markReplica: w.cfg.ReplicaID})
}

// before reads what a dataset is like now.
func before(ctx context.Context, e Properties, d zfs.Dataset) (was, error) {
	out := was{props: map[string]string{}, mounted: d.Mounted, path: d.Mountpoint}
	native, err := e.Get(ctx, d.Name, managedProps()...)
	if err != nil {
		return out, fmt.Errorf("look at properties: %w", err)
	}
	exports, err := getKnown(ctx, e, d.Name, propShareNFS, propShareSMB)
	if err != nil {
		return out, err
	}
	for _, group := range []map[string]zfs.Property{native, exports} {
		for name, p := range group {
			if p.Source == zfs.SourceLocal || p.Source == zfs.SourceReceived {
				out.props[name] = p.Value
			}
		}
	}
	return out, nil
}

// takeOver marks the dataset as this replica's and gives it its name. It is out of
// everybody's reach, and stays so until the ordinary steps of its role follow.
func (w *Worker) takeOver(ctx context.Context) error {
	d, role := w.s.f.former.ds, rolePrimary
	if w.s.following() {
		role = roleReplica
	}
	props := resting(w.newMarks(role))
	before, err := parseWas(local(d, markWas))
	if err != nil {
		return err
	}
	for _, name := range before.exports() {
		props[name] = off
	}
	if err := w.cfg.Engine.Set(ctx, d.Name, props); err != nil {
		return fmt.Errorf("mark dataset: %w", err)
	}
	if err := w.parent(ctx, w.l.root()); err != nil {
		return fmt.Errorf("make room: %w", err)
	}
	if err := w.cfg.Engine.Rename(ctx, d.Name, w.l.dataset()); err != nil {
		return err
	}
	w.s.released = true // it was unmounted, and nobody had it open
	w.log.Info("dataset taken over", "from", d.Name, "dataset", w.l.dataset())
	return nil
}

// keepPath lets clients find the data where they were. What had no path gets one.
func (w *Worker) keepPath(ctx context.Context) error {
	want := w.s.formerPath()
	var err error
	if want == "" {
		err = w.cfg.Engine.Inherit(ctx, w.l.dataset(), zfs.PropMountpoint)
	} else {
		err = w.cfg.Engine.Set(ctx, w.l.dataset(), map[string]string{zfs.PropMountpoint: want})
		err = ignore(err, zfs.ErrUnsupported) // then it has the path of its name
	}
	w.s.pathTried = err == nil
	return err
}

// untie takes away what tarn holds on the dataset's history, and its replication
// snapshots. The newest and what replicas acknowledged last stay, without holds:
// whatever replicates the data next can go on from there.
func (w *Worker) untie(ctx context.Context) error {
	versions, err := w.settledVersions(ctx)
	if err != nil {
		return err
	}
	w.pruned.holds = nil // what is let go of is decided on holds of this moment
	tags, _, err := w.tags(ctx, versions)
	if err != nil {
		return err
	}
	newest := (&facts{versions: versions}).newest().GUID
	for _, v := range versions {
		switch base := v.GUID == newest || stepHeld(tags[v.Name]); {
		case cursorOwner(v) != "":
			err = ignore(w.cfg.Engine.DestroyBookmark(ctx, v.FullName()), zfs.ErrNotExist)
		case v.Kind == zfs.KindSnapshot:
			err = w.untieSnapshot(ctx, v, base)
		}
		if err != nil {
			return err
		}
	}
	w.s.untied = true
	return nil
}

// settledVersions lists the dataset's versions after what its last receivers stand on
// was held: so it is known here.
func (w *Worker) settledVersions(ctx context.Context) ([]zfs.Version, error) {
	versions, err := w.cfg.Engine.Versions(ctx, w.l.dataset())
	if err != nil {
		return nil, fmt.Errorf("list versions: %w", err)
	}
	if w.cfg.Settle == nil {
		return versions, nil
	}
	if changed, err := w.cfg.Settle(ctx, w.cfg.ReplicaID, versions); err != nil || !changed {
		return versions, err
	}
	return w.cfg.Engine.Versions(ctx, w.l.dataset())
}

func stepHeld(tags []string) bool {
	for _, tag := range tags {
		if strings.HasPrefix(tag, holdStep) {
			return true
		}
	}
	return false
}

func (w *Worker) untieSnapshot(ctx context.Context, v zfs.Version, base bool) error {
	if err := w.releaseAll(ctx, v); err != nil {
		return err
	}
	if base || !prunable(v.Name) {
		return nil
	}
	err := w.cfg.Engine.DestroySnapshots(ctx, v.Dataset, v.Name)
	if errors.Is(err, zfs.ErrHeld) || errors.Is(err, zfs.ErrHasClones) || errors.Is(err, zfs.ErrBusy) {
		w.log.Warn("a replication snapshot stays: somebody needs it", "snapshot", v.FullName(), "err", err)
		return nil
	}
	return ignore(err, zfs.ErrNotExist)
}

// restore makes a dataset what it was before, and takes the marks away. From the
// moment that it is, the mark by which it is found says so, and that one goes last: a
// process that dies in between never puts back what it no longer knows.
func (w *Worker) restore(ctx context.Context, d zfs.Dataset) error {
	released := releasedPrefix + w.cfg.ReplicaID
	if local(d, markReplica) != released {
		if err := w.restoreProps(ctx, d); err != nil {
			return err
		}
		if err := w.cfg.Engine.Set(ctx, d.Name, map[string]string{markReplica: released}); err != nil {
			return fmt.Errorf("mark as given back: %w", err)
		}
	}
	for name, p := range d.User {
		if p.Source != zfs.SourceLocal || !strings.HasPrefix(name, tarnMark) || name == markReplica {
			continue
		}
		if err := w.cfg.Engine.Inherit(ctx, d.Name, name); err != nil {
			return fmt.Errorf("remove mark: %w", err)
		}
	}
	if err := w.cfg.Engine.Inherit(ctx, d.Name, markReplica); err != nil {
		return fmt.Errorf("remove mark: %w", err)
	}
	w.log.Info("dataset given back", "dataset", d.Name)
	return nil
}

// restoreProps puts back what was recorded, and that it was mounted. A dataset that
// tarn made keeps whatever else its operator set.
func (w *Worker) restoreProps(ctx context.Context, d zfs.Dataset) error {
	text := local(d, markWas)
	before, err := parseWas(text)
	if err != nil {
		return err
	}
	if len(before.props) > 0 {
		if err := w.cfg.Engine.Set(ctx, d.Name, before.props); err != nil {
			return fmt.Errorf("put properties back: %w", err)
		}
	}
	for _, prop := range managedProps() {
		_, own := before.props[prop]
		switch {
		case own, prop == zfs.PropMountpoint && text == "":
			continue
		case prop == zfs.PropQuota, prop == zfs.PropRefQuota: // this and the next are never inherited, and have defaults
			err = w.cfg.Engine.Set(ctx, d.Name, map[string]string{prop: none})
		case prop == zfs.PropCanMount:
			err = w.cfg.Engine.Set(ctx, d.Name, map[string]string{prop: on})
		default:
			err = w.cfg.Engine.Inherit(ctx, d.Name, prop)
		}
		if err != nil {
			return fmt.Errorf("put property %s back: %w", prop, err)
		}
	}
	if !before.mounted {
		return nil
	}
	if err := w.cfg.Engine.Mount(ctx, d.Name); err != nil {
		return fmt.Errorf("mount what was mounted: %w", err)
	}
	return nil
}

// adoptSnapshots gives snapshots that were there the names of users' ones; their GUIDs
// stay.
func (w *Worker) adoptSnapshots(ctx context.Context) error {
	var errs []error
	for _, x := range w.s.a.GetSnapshots() {
		id := x.GetSnapshotId()
		if _, taken := w.s.f.named(userPrefix + id); !w.s.adopts(x) || taken {
			continue
		}
		err := w.cfg.Engine.RenameSnapshot(ctx, w.l.dataset(), x.GetManagedFrom(), userPrefix+id)
		if err != nil {
			w.errorsOf[id] = err.Error()
			errs = append(errs, fmt.Errorf("take over snapshot %s: %w", x.GetManagedFrom(), err))
			continue
		}
		delete(w.errorsOf, id)
	}
	return errors.Join(errs...)
}

// releaseSnapshot gives a user's snapshot the name back that it had, if it had one.
func (w *Worker) releaseSnapshot(ctx context.Context, v zfs.Version, x *tarnv1.WantedSnapshot) error {
	id := x.GetSnapshotId()
	if err := w.cfg.Engine.RenameSnapshot(ctx, v.Dataset, v.Name, x.GetManagedFrom()); err != nil {
		w.errorsOf[id] = err.Error()
		return err
	}
	delete(w.errorsOf, id)
	return nil
}
