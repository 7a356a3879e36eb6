package zfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
)

// shownProperties make a Dataset. The first three are hidden from "all" in old
// versions.
var shownProperties = []string{
	"guid", "createtxg", "", // written or unique
	"mounted", PropMountpoint, PropReadOnly, "origin", "used", "referenced", "available", PropQuota, PropRefQuota,
}

// settable are the native properties that the engine sets.
var settable = []string{
	PropQuota, PropReadOnly, PropCanMount, PropMountpoint, PropATime, PropRefQuota, "reservation", "refreservation", "compression",
	"recordsize", "sharenfs", "sharesmb", "snapdir", "xattr", "acltype", "exec", "setuid", "devices", "encryption", "keyformat", "keylocation",
}

// options turns properties into arguments, natives first, so that a dataset is at
// rest before it carries a mark that says what it is.
func (h *Host) options(op, object string, props map[string]string) ([]string, error) {
	var natives, marks []string
	for name, value := range props {
		if slices.Contains(settable, name) {
			if value == "" || strings.ContainsAny(value, "\x00\n") {
				return nil, &Error{Op: op, Object: object, Class: ErrInvalid, Text: fmt.Sprintf("property %s=%q", name, value)}
			}
			if value == "0" && (name == PropQuota || name == PropRefQuota) {
				value = "none" // zfs prints the one and reads the other
			}
			natives = append(natives, name+"="+value)
			continue
		}
		if err := ValidateUserProperty(name, value); err != nil {
			return nil, &Error{Op: op, Object: object, Class: ErrInvalid, Text: err.Error()}
		}
		marks = append(marks, name+"="+value)
	}
	sort.Strings(natives)
	sort.Strings(marks)
	return append(natives, marks...), nil
}

// Create makes a filesystem. Without canmount among props it gets canmount=noauto:
// nothing appears in the tree of files that nobody asked for.
func (h *Host) Create(ctx context.Context, name string, props map[string]string, parents bool) error {
	if err := h.allow("create", name); err != nil {
		return err
	}
	args, err := h.creation("create", name, props)
	if err != nil {
		return err
	}
	_, err = h.run(ctx, "create", name, append(args, name)...)
	slash := strings.LastIndexByte(name, '/')
	if !parents || !errors.Is(err, ErrNotExist) || slash < 0 {
		return err
	}
	parent := name[:slash]
	made := h.Create(ctx, parent, map[string]string{PropCanMount: "off"}, strings.Contains(parent, "/"))
	if made != nil && !errors.Is(made, ErrExists) {
		return made
	}
	_, err = h.run(ctx, "create", name, append(args, name)...)
	return err
}

// creation is the verb with -o for each property.
func (h *Host) creation(verb, name string, props map[string]string) ([]string, error) {
	if props[PropEncryption] != "" && !h.build.raw {
		return nil, &Error{Op: verb, Object: name, Class: ErrUnsupported, Text: "this version has no encryption"}
	}
	options, err := h.options(verb, name, atRest(props))
	if err != nil {
		return nil, err
	}
	args := []string{verb}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	return args, nil
}

// atRest adds canmount=noauto where the caller says nothing of it.
func atRest(props map[string]string) map[string]string {
	if _, said := props[PropCanMount]; said {
		return props
	}
	with := map[string]string{PropCanMount: "noauto"}
	for k, v := range props {
		with[k] = v
	}
	return with
}

// Dataset gives one filesystem.
func (h *Host) Dataset(ctx context.Context, name string) (Dataset, error) {
	list, err := h.describe(ctx, name, false)
	if err != nil {
		return Dataset{}, err
	}
	if len(list) != 1 || list[0].Name != name {
		return Dataset{}, &Error{Op: "get", Object: name, Class: ErrNotExist, Text: "not a filesystem"}
	}
	return list[0], nil
}

// Datasets gives root and all below it in name order, in one process (two on
// zfs-fuse). Volumes are left out.
func (h *Host) Datasets(ctx context.Context, root string) ([]Dataset, error) {
	list, err := h.describe(ctx, root, true)
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list, err
}

func (h *Host) describe(ctx context.Context, root string, below bool) ([]Dataset, error) {
	if err := h.allow("get", root); err != nil {
		return nil, err
	}
	targets, err := h.targets(ctx, root, below)
	if err != nil {
		return nil, err
	}
	var records []record
	for _, props := range h.propertyLists() {
		args := append([]string{"get", "-Hp", "-o", "name,property,value,source"}, targets.flags...)
		out, err := h.run(ctx, "get", root, append(append(args, props), targets.names...)...)
		if err != nil && !(below && othersVanished(err, root)) {
			return nil, err
		}
		part, err := parseRecords(string(out))
		if err != nil {
			return nil, unreadable("get", root, err)
		}
		records = append(records, part...)
	}
	list, err := datasetsOf(records)
	if err != nil {
		return nil, unreadable("get", root, err)
	}
	return list, nil
}

func unreadable(op, object string, err error) *Error {
	return &Error{Op: op, Object: object, Class: ErrUnclassified, Text: "answer not understood: " + err.Error(), Next: nextStep(ErrUnclassified, object, "")}
}

// othersVanished tells that a listing failed only because datasets below root were
// destroyed or renamed meanwhile.
func othersVanished(err error, root string) bool {
	var e *Error
	if !errors.As(err, &e) || e.Class != ErrNotExist {
		return false
	}
	for line := range strings.Lines(e.Text) {
		if strings.Contains(line, "'"+root+"'") || !strings.Contains(line, "'"+root+"/") || !strings.Contains(line, "does not exist") {
			return false
		}
	}
	return true
}

// getTargets say which datasets zfs get looks at.
type getTargets struct{ flags, names []string }

// targets lets zfs get recurse over filesystems only, where it can; zfs-fuse would list
// every snapshot too, so there the names come from zfs list.
func (h *Host) targets(ctx context.Context, root string, below bool) (getTargets, error) {
	t := getTargets{names: []string{root}}
	if h.build.getTypes {
		t.flags = []string{"-t", "filesystem"}
	}
	switch {
	case !below:
	case h.build.getTypes:
		t.flags = append(t.flags, "-r")
	default:
		out, err := h.run(ctx, "list", root, "list", "-H", "-r", "-t", "filesystem", "-o", "name", root)
		if err != nil {
			return t, err
		}
		t.names = ownNames(string(out))
	}
	return t, nil
}

// ownNames are the names of a listing that can be tarn's: other people's may have spaces.
func ownNames(out string) []string {
	names := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	return slices.DeleteFunc(names, func(n string) bool { return ValidateDataset(n) != nil })
}

// propertyLists are the lists to ask zfs get for: one, or two where "all" hides some.
func (h *Host) propertyLists() []string {
	named := slices.Clone(shownProperties)
	if named[2] = "unique"; h.build.written {
		named[2] = "written"
	}
	if h.build.snapshotsChanged {
		named = append(named, propSnapshotsChanged)
	}
	if h.build.resume {
		named = append(named, "receive_resume_token")
	}
	if h.build.raw {
		named = append(named, "encryption", "encryptionroot", "keystatus")
	}
	switch {
	case h.user != nil:
		return []string{strings.Join(append(named, h.user...), ",")}
	case h.build.guidInAll:
		return []string{"all"}
	}
	return []string{strings.Join(named[:3], ","), "all"}
}

// Set writes local values; several in one transaction where the version can, else one
// by one, natives first.
func (h *Host) Set(ctx context.Context, name string, props map[string]string) error {
	if err := h.allow("set", name); err != nil {
		return err
	}
	options, err := h.options("set", name, props)
	if err != nil || len(options) == 0 {
		return err
	}
	if h.build.multiSet {
		_, err := h.run(ctx, "set", name, append(append([]string{"set"}, options...), name)...)
		return h.setAllTheSame(ctx, name, props, err)
	}
	for _, o := range options {
		if _, err := h.run(ctx, "set", name, "set", o, name); err != nil {
			return err
		}
	}
	if value, ok := props[PropReadOnly]; ok && h.isFuse() {
		return h.mountFollows(ctx, name, value == "on")
	}
	return nil
}

// setAllTheSame forgives a failure to mount anew with changed properties: with files
// open for writing a filesystem cannot be mounted read-only, but readonly=on counts
// from now on all the same. What is forgiven is read back.
func (h *Host) setAllTheSame(ctx context.Context, name string, props map[string]string, err error) error {
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Text, "property may be set") {
		return err
	}
	got, getErr := h.Get(ctx, name, slices.Collect(maps.Keys(props))...)
	if getErr != nil {
		return getErr
	}
	for k, v := range props {
		// While it is mounted the mount's value is shown, as a temporary one.
		if got[k].Value != v && got[k].Source != "temporary" {
			return &Error{Op: "set", Object: name, Class: ErrBusy, Text: e.Text, Next: "unmount it first"}
		}
	}
	return nil
}

// Inherit removes a local value.
func (h *Host) Inherit(ctx context.Context, name, prop string) error {
	if err := h.allow("inherit", name); err != nil {
		return err
	}
	if err := h.readable("inherit", name, prop); err != nil {
		return err
	}
	_, err := h.run(ctx, "inherit", name, "inherit", prop, name)
	if err == nil && prop == PropReadOnly && h.isFuse() {
		return h.mountAnew(ctx, name)
	}
	return err
}

// readable checks the name of any property.
func (h *Host) readable(op, object, prop string) error {
	if !isProperty(prop) || prop[0] == '-' || len(prop) > 256 || prop == "all" {
		return &Error{Op: op, Object: object, Class: ErrInvalid, Text: fmt.Sprintf("property name %.300q", prop)}
	}
	return nil
}

// Get answers with effective values and sources; an unset user property is "-" of
// source "-".
func (h *Host) Get(ctx context.Context, name string, props ...string) (map[string]Property, error) {
	if err := h.allow("get", name); err != nil {
		return nil, err
	}
	for _, p := range props {
		if err := h.readable("get", name, p); err != nil {
			return nil, err
		}
	}
	if len(props) == 0 {
		return map[string]Property{}, nil
	}
	out, err := h.run(ctx, "get", name, "get", "-Hp", "-o", "name,property,value,source", strings.Join(props, ","), name)
	if err != nil {
		return nil, err
	}
	records, err := parseRecords(string(out))
	if err != nil {
		return nil, unreadable("get", name, err)
	}
	got := make(map[string]Property, len(records))
	for _, r := range records {
		got[r.property] = Property{r.value, r.source}
	}
	return got, nil
}

// Destroy removes a filesystem that has no snapshots and no children.
func (h *Host) Destroy(ctx context.Context, name string) error {
	if err := h.allow("destroy", name); err != nil {
		return err
	}
	if !strings.Contains(name, "/") {
		return &Error{Op: "destroy", Object: name, Class: ErrInvalid, Text: "a pool's own filesystem stays"}
	}
	if h.isFuse() {
		return h.destroyUnmounted(ctx, name)
	}
	_, err := h.run(ctx, "destroy", name, "destroy", name)
	return err
}

// Rename moves a filesystem with its children inside its pool. What is mounted is
// mounted at the new place.
func (h *Host) Rename(ctx context.Context, from, to string) error {
	if err := errors.Join(h.allow("rename", from), h.allow("rename", to)); err != nil {
		return err
	}
	if h.isFuse() {
		return h.renameUnmounted(ctx, from, to)
	}
	_, err := h.run(ctx, "rename", from, "rename", from, to)
	return err
}
