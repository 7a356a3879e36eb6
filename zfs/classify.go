package zfs

import (
	"fmt"
	"strings"
)

const textLimit = 4 << 10

// rule gives a class to a fragment of what the tools say under LC_ALL=C.
type rule struct {
	fragment string
	class    error
}

// rules are tried in order, the first fragment found decides: special cases come
// before the general words that they contain. Texts are those of zfs-fuse 0.7.0 and
// OpenZFS 0.7 to 2.4.
var rules = []rule{
	// the tools themselves
	{"make sure that the zfs-fuse daemon is running", ErrPoolUnavailable},
	{"ZFS modules are not loaded", ErrPoolUnavailable},
	{"failed to initialize ZFS library", ErrPoolUnavailable},
	{"/dev/zfs and /proc/self/mounts are required", ErrPoolUnavailable},
	{"pool I/O is currently suspended", ErrPoolUnavailable},
	{"pool is unavailable", ErrPoolUnavailable},
	{"pyzfs.py not found", ErrUnsupported},
	{"unrecognized command", ErrUnsupported},
	{"invalid option", ErrUnsupported},

	// resuming
	{"contains partially-complete state", ErrResumable},
	{"does not have any resumable receive state", ErrNotResumable},
	{"resume token is corrupt", ErrTokenInvalid},
	{"no longer the same snapshot used in the initial send", ErrTokenInvalid},
	{"used in the initial send no longer exists", ErrTokenInvalid},
	{"cannot resume send", ErrTokenInvalid},

	// streams, receiving side
	{"incremental send stream requires -L", ErrStreamFlags},
	{"IV set guid", ErrStreamFlags},
	{"encryption key does not match", ErrKey},
	{"failed to create encryption key", ErrKey},
	{"key must be loaded", ErrKey},
	{"key not loaded", ErrKey},
	{"Key load error", ErrKey},
	{"embedded data stream feature with encrypted receive", ErrStreamFlags},
	{"cannot be used to destroy an encrypted filesystem", ErrExists},
	{"has been modified", ErrModified},
	{"most recent snapshot of", ErrDiverged},
	{"match incremental source", ErrDiverged},
	{"must be upgraded to receive", ErrUnsupported},
	{"stream has unsupported feature", ErrUnsupported},
	{"kernel modules must be upgraded", ErrUnsupported},
	{"bookmark feature not enabled", ErrUnsupported},
	{"pool must be upgraded", ErrUnsupported},
	{"quota exceeded", ErrQuota},
	{"out of space", ErrNoSpace},
	{"No space left on device", ErrNoSpace},
	{"size is less than current used or reserved space", ErrNoSpace},
	{"size is greater than available space", ErrNoSpace},
	{"failed to read from stream", ErrStreamTruncated},
	{"incomplete stream", ErrStreamTruncated},
	{"checksum mismatch", ErrStreamCorrupt},
	{"bad magic number", ErrStreamCorrupt},
	{"invalid backup stream", ErrStreamCorrupt},
	{"invalid stream", ErrStreamCorrupt},

	// streams, sending side
	{"not an earlier snapshot from the same fs", ErrBaseMissing},
	{"incremental source", ErrBaseMissing},

	// dependencies
	{"being held", ErrHeld},
	{"tag already exists", ErrExists},
	{"no such tag", ErrNotExist},
	{"has dependent clones", ErrHasClones},
	{"clones of previous snapshots exist", ErrHasClones},
	{"more recent snapshots", ErrNotLatest},
	{"more recent bookmarks", ErrNotLatest},
	{"filesystem has children", ErrHasSnapshots},
	{"filesystem has dependent", ErrHasSnapshots},
	{"volume has children", ErrHasSnapshots},
	{"destination has snapshots", ErrExists},
	{"destination has children", ErrExists},

	// names and values
	{"not a cloned filesystem", ErrInvalid},
	{"conflicting snapshot", ErrExists},
	{"multiple snapshots of same fs", ErrInvalid},
	{"must be one of", ErrInvalid},
	{"bad numeric value", ErrInvalid},
	{"invalid property", ErrInvalid},
	{"invalid dataset name", ErrInvalid},
	{"invalid character", ErrInvalid},
	{"is read-only", ErrInvalid},
	{"is readonly", ErrInvalid},
	{"datasets must be within same pool", ErrInvalid},
	{"operation not applicable to datasets of this type", ErrInvalid},
	{"property list", ErrInvalid},
	{"missing '='", ErrInvalid},
	{"specified multiple times", ErrInvalid},
	{"no mountpoint set", ErrInvalid},
	{"'canmount' property is set to 'off'", ErrInvalid},
	{"legacy mountpoint", ErrInvalid},
	{"bookmark exists", ErrExists},
	{"already exists", ErrExists},
	{"must specify -F to overwrite", ErrExists},
	{"could not find any snapshots to destroy", ErrNotExist},
	{"no such pool", ErrNotExist},
	{"does not exist", ErrNotExist},
	{"unable to restore to destination", ErrNotExist}, // its parent

	// mounting
	{"not currently mounted", ErrNotMounted},
	{"target is busy", ErrBusy},
	{"umount child process failed", ErrBusy},
	{"cannot unmount", ErrBusy},
	{"is busy", ErrBusy},
	{"directory is not empty", ErrBusy},
	{"cannot mount", ErrNotMounted},
	{"failed to create mountpoint", ErrNotMounted},

	{"ermission denied", ErrPermission},
	{"Operation not permitted", ErrPermission},
	{"must be superuser", ErrPermission},
	{"Read-only file system", ErrReadOnly},
	{"not supported", ErrUnsupported},
}

// classify makes an error of what a tool wrote to standard error. status is how the
// process ended, for the case that it said nothing.
func classify(op, object, stderr, status string) *Error {
	text, usage := withoutUsage(stderr)
	e := &Error{Op: op, Object: object, Class: ErrUnclassified, Text: firstLines(text)}
	flat := strings.Join(strings.Fields(text), " ") // messages are broken over lines
	for _, r := range rules {
		if strings.Contains(flat, r.fragment) {
			e.Class = r.class
			break
		}
	}
	if e.Class == ErrUnclassified && usage {
		e.Class = ErrUnsupported
	}
	if e.Text == "" {
		e.Text = status + " without a message"
	}
	e.Next = nextStep(e.Class, object, flat)
	return e
}

// withoutUsage cuts the usage off that the tools append to many errors.
func withoutUsage(stderr string) (text string, usage bool) {
	if strings.HasPrefix(stderr, "usage:") {
		return "", true
	}
	text, _, usage = strings.Cut(stderr, "\nusage:")
	return text, usage
}

func firstLines(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > textLimit {
		s = s[:textLimit]
	}
	return strings.ToValidUTF8(s, "?")
}

const nextToolMissing = "install the ZFS tools (Debian: zfsutils-linux with the kernel module, or zfs-fuse), or name their paths in the configuration"

// nextStep tells the operator what helps against an error of a class; "" when the
// agent itself goes on.
func nextStep(class error, object, text string) string {
	pool := poolOf(object)
	switch class {
	case ErrPoolUnavailable:
		return nextUnavailable(pool, text)
	case ErrNoSpace:
		return fmt.Sprintf("free space in pool %s or add disks to it; nothing was changed", pool)
	case ErrQuota:
		return fmt.Sprintf("raise the quota of %s or of a dataset above it", object)
	case ErrHeld:
		return fmt.Sprintf("zfs holds %s tells who holds it", object)
	case ErrHasClones:
		return fmt.Sprintf("zfs get -r origin %s tells which datasets are clones of it", pool)
	case ErrKey:
		return fmt.Sprintf("zfs load-key %s, or send raw to hosts without the key", datasetOf(object))
	case ErrStreamFlags:
		return "the replica needs a new full stream: its earlier streams had other flags"
	case ErrPermission:
		return fmt.Sprintf("run the agent as root, or give its user the right with zfs allow on %s", pool)
	case ErrUnsupported:
		return "this version of ZFS cannot do it: see zfs version and zpool get all " + pool
	case ErrUnclassified:
		return "run the command by hand and see what it says; please report a message that tarn does not know"
	}
	return ""
}

func nextUnavailable(pool, text string) string {
	switch {
	case strings.Contains(text, "zfs-fuse daemon"):
		return "start the daemon: service zfs-fuse start"
	case strings.Contains(text, "modules are not loaded") || strings.Contains(text, "/dev/zfs"):
		return "load the kernel module: modprobe zfs"
	case strings.Contains(text, "suspended"):
		return fmt.Sprintf("repair the disks of pool %s (zpool status %s), then run zpool clear %s", pool, pool, pool)
	}
	return fmt.Sprintf("zpool status %s; if it is not imported, zpool import %s", pool, pool)
}

// datasetOf is the dataset of a snapshot or bookmark name.
func datasetOf(name string) string {
	if i := strings.IndexAny(name, "@#"); i >= 0 {
		return name[:i]
	}
	return name
}
