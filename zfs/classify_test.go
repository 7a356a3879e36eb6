package zfs_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"tarn/zfs"
)

// texts are what zfs-fuse 0.7.0 (f), OpenZFS 2.3.9 (o) and, from its sources, other
// versions (s) say, and what tarn makes of it.
var texts = []struct {
	from, op, object, text string
	class                  error
	next                   string // part of the next step
}{
	{"f", "usage", "zfs", "connect: No such file or directory\nPlease make sure that the zfs-fuse daemon is running.\ninternal error: failed to initialize ZFS library\n", zfs.ErrPoolUnavailable, "service zfs-fuse start"},
	{"s", "get", "a/b", "The ZFS modules are not loaded.\nTry running 'modprobe zfs' as root to load them.\n", zfs.ErrPoolUnavailable, "modprobe zfs"},
	{"s", "snapshot", "a/b@1", "cannot create snapshot 'a/b@1': pool I/O is currently suspended\n", zfs.ErrPoolUnavailable, "zpool clear a"},
	{"f", "create", "a/fs", "cannot create 'a/fs': dataset already exists\n", zfs.ErrExists, ""},
	{"fo", "create", "a/no/fs", "cannot create 'a/no/fs': parent does not exist\n", zfs.ErrNotExist, ""},
	{"fo", "create", "p/fs", "cannot create 'p/fs': no such pool 'p'\n", zfs.ErrNotExist, ""},
	{"fo", "create", "a/bad", "cannot create 'a/bad': 'readonly' must be one of 'on | off'\n", zfs.ErrInvalid, ""},
	{"fo", "create", "a/bad", "cannot create 'a/bad': bad numeric value '-5'\n", zfs.ErrInvalid, ""},
	{"fo", "create", "a/bad", "cannot create 'a/bad': invalid property 'nocolon'\n", zfs.ErrInvalid, ""},
	{"fo", "destroy", "a/x", "cannot destroy 'a/x': filesystem has children\nuse '-r' to destroy the following datasets:\na/x/y\n", zfs.ErrHasSnapshots, ""},
	{"fo", "destroy", "a/none", "cannot open 'a/none': dataset does not exist\n", zfs.ErrNotExist, ""},
	{"fo", "get", "a/fs", "bad property list: invalid property 'written'\nusage:\n\tget [-rHp] [-d max]\n", zfs.ErrInvalid, ""},
	{"f", "snapshot", "a/fs@2", "too many arguments\nusage:\n\tsnapshot [-r] [-o property=value] ... <filesystem@snapname|volume@snapname>\n", zfs.ErrUnsupported, ""},
	{"o", "snapshot", "a/none@1", "cannot open 'a/none': dataset does not exist\nusage:\n\tsnapshot [-r] [-o property=value] ... <filesystem|volume>@<snap> ...\n", zfs.ErrNotExist, ""},
	{"o", "snapshot", "a/fs@2", "cannot create snapshots : multiple snapshots of same fs not allowed\nno snapshots were created\n", zfs.ErrInvalid, ""},
	{"f", "hold", "a/fs@1", "cannot hold 'a/fs@1': tag already exists on this dataset\n", zfs.ErrExists, ""},
	{"o", "hold", "a/fs@1", "cannot hold snapshot 'a/fs@1': tag already exists on this dataset\n", zfs.ErrExists, ""},
	{"o", "release", "a/fs@1", "cannot release hold from snapshot 'a/fs@1': no such tag on this dataset\n", zfs.ErrNotExist, ""},
	{"f", "holds", "a/fs@1", "internal error: /usr/lib/zfs/pyzfs.py not found\n", zfs.ErrUnsupported, ""},
	{"f", "destroy", "a/fs@1", "cannot destroy 'a/fs@1': dataset is busy\n", zfs.ErrBusy, ""},
	{"o", "destroy", "a/fs@1", "cannot destroy snapshot a/fs@1: it's being held. Run 'zfs holds -r a/fs@1' to see holders.\n", zfs.ErrHeld, "zfs holds a/fs@1"},
	{"o", "destroy", "a/fs@4", "cannot destroy snapshot a/fs@4: dataset is busy\n", zfs.ErrBusy, ""},
	{"fo", "destroy", "a/fs@1", "cannot destroy 'a/fs@1': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\na/c\n", zfs.ErrHasClones, "origin"},
	{"o", "destroy", "a/fs@none", "could not find any snapshots to destroy; check snapshot names.\n", zfs.ErrNotExist, ""},
	{"o", "bookmark", "a/fs@1", "cannot create bookmark 'a/fs#1': bookmark exists\n", zfs.ErrExists, ""},
	{"s", "bookmark", "a/fs@1", "cannot create bookmark 'a/fs#1': bookmark feature not enabled\n", zfs.ErrUnsupported, ""},
	{"o", "destroy", "a/fs#none", "bookmark 'a/fs#none' does not exist.\n", zfs.ErrNotExist, ""},
	{"f", "bookmark", "a/fs@1", "unrecognized command 'bookmark'\nusage: zfs command args ...\n", zfs.ErrUnsupported, ""},
	{"fo", "rename", "a/fs", "cannot rename 'a/fs': dataset already exists\n", zfs.ErrExists, ""},
	{"fo", "rename", "a/fs", "cannot rename to 'b/z': datasets must be within same pool\n", zfs.ErrInvalid, ""},
	{"f", "rollback", "a/fs@1", "cannot rollback to 'a/fs@1': more recent snapshots exist\nuse '-r' to force deletion of the following snapshots:\na/fs@2\n", zfs.ErrNotLatest, ""},
	{"o", "rollback", "a/fs@1", "cannot rollback to 'a/fs@1': more recent snapshots or bookmarks exist\nuse '-r' to force deletion\n", zfs.ErrNotLatest, ""},
	{"fo", "promote", "a/fs", "cannot promote 'a/fs': not a cloned filesystem\n", zfs.ErrInvalid, ""},
	{"f", "promote", "a/c", "cannot promote 'a/c': conflicting snapshot '1' from parent 'a/fs@1'\n", zfs.ErrExists, ""},
	{"fo", "mount", "a/x", "cannot mount 'a/x': no mountpoint set\n", zfs.ErrInvalid, ""},
	{"s", "mount", "a/x", "cannot mount 'a/x': 'canmount' property is set to 'off'\n", zfs.ErrInvalid, ""},
	{"s", "mount", "a/x", "cannot mount 'a/x': encryption key not loaded\n", zfs.ErrKey, "zfs load-key a/x"},
	{"fo", "unmount", "a/x", "cannot unmount 'a/x/y': not currently mounted\n", zfs.ErrNotMounted, ""},
	{"f", "unmount", "a/x", "umount: /m/fs: target is busy.\ncannot unmount '/m/fs': umount failed: umount child process failed\n", zfs.ErrBusy, ""},
	{"o", "unmount", "a/x", "cannot unmount '/m/fs': pool or dataset is busy\n", zfs.ErrBusy, ""},
	{"fo", "set", "a/fs", "cannot set property for 'a/fs': size is less than current used or reserved space\n", zfs.ErrNoSpace, "pool a"},
	{"f", "send", "a/fs@none", "WARNING: could not send a/fs@none: does not exist\n", zfs.ErrNotExist, ""},
	{"f", "send", "a/fs@1", "warning: cannot send 'a/fs@1': incremental source (@none) does not exist\n", zfs.ErrBaseMissing, ""},
	{"fo", "send", "a/fs@1", "warning: cannot send 'a/fs@1': not an earlier snapshot from the same fs\n", zfs.ErrBaseMissing, ""},
	{"o", "send", "a/fs@6", "warning: cannot send 'a/fs@6': incremental source (a/fs#none) does not exist\n", zfs.ErrBaseMissing, ""},
	{"o", "send", "token", "cannot resume send: resume token is corrupt (incorrect checksum)\n", zfs.ErrTokenInvalid, ""},
	{"o", "send", "a/fs@4", "cannot resume send: 'a/fs@4' is no longer the same snapshot used in the initial send\n", zfs.ErrTokenInvalid, ""},
	{"s", "send", "a/fs@4", "cannot resume send: 'a/fs@4' used in the initial send no longer exists\n", zfs.ErrTokenInvalid, ""},
	{"fo", "receive", "b/t/fs@1", "cannot receive new filesystem stream: destination 'b/t/fs' exists\nmust specify -F to overwrite it\n", zfs.ErrExists, ""},
	{"o", "receive", "b/t/fs@1", "cannot restore to b/t/fs@1: destination already exists\n", zfs.ErrExists, ""},
	{"f", "receive", "b/t/no/fs@1", "cannot open 'b/t/no/fs': dataset does not exist\ncannot receive new filesystem stream: dataset does not exist\n", zfs.ErrNotExist, ""},
	{"o", "receive", "b/t/no/fs@1", "cannot open 'b/t/no': dataset does not exist\ncannot receive new filesystem stream: unable to restore to destination\n", zfs.ErrNotExist, ""},
	{"o", "receive", "b/t/none@2", "cannot receive incremental stream: destination 'b/t/none' does not exist\n", zfs.ErrNotExist, ""},
	{"fo", "receive", "b/t/fs@3", "cannot receive incremental stream: most recent snapshot of b/t/fs does not\nmatch incremental source\n", zfs.ErrDiverged, ""},
	{"fo", "receive", "b/t/fs@3", "cannot receive incremental stream: destination b/t/fs has been modified\nsince most recent snapshot\n", zfs.ErrModified, ""},
	{"fo", "receive", "b/t/fs@3", "cannot receive: failed to read from stream\n", zfs.ErrStreamTruncated, ""},
	{"o", "receive", "b/t/fs@3", "cannot receive incremental stream: incomplete stream\n", zfs.ErrStreamTruncated, ""},
	{"o", "receive", "b/t/fs@3", "cannot receive new filesystem stream: checksum mismatch or incomplete stream.\nPartially received snapshot is saved.\nA resuming stream can be generated on the sending system by running:\n    zfs send -t 1-9f\n", zfs.ErrStreamTruncated, ""},
	{"f", "receive", "b/t/fs@3", "cannot receive new filesystem stream: invalid backup stream\n", zfs.ErrStreamCorrupt, ""},
	{"fo", "receive", "b/t/fs@3", "cannot receive: invalid stream (bad magic number)\n", zfs.ErrStreamCorrupt, ""},
	{"s", "receive", "b/t/fs@3", "cannot receive incremental stream: invalid stream (checksum mismatch)\n", zfs.ErrStreamCorrupt, ""},
	{"fo", "receive", "b/t/fs@3", "cannot receive new filesystem stream: out of space\n", zfs.ErrNoSpace, "pool b"},
	{"s", "receive", "b/t/fs@3", "cannot receive new filesystem stream: destination b/t/fs space quota exceeded.\n", zfs.ErrQuota, "raise the quota"},
	{"s", "receive", "b/t/fs@3", "cannot receive resume stream: destination b/t/fs contains partially-complete state from \"zfs receive -s\".\n", zfs.ErrResumable, ""},
	{"s", "receive", "b/t/fs", "cannot abort resumable receive: 'b/t/fs' does not have any resumable receive state to abort\n", zfs.ErrNotResumable, ""},
	{"s", "receive", "b/t/fs@3", "cannot receive incremental stream: incremental send stream requires -L (--large-block), to match previous receive.\n", zfs.ErrStreamFlags, "full stream"},
	{"s", "receive", "b/t/fs@3", "cannot receive incremental stream: IV set guid mismatch. See the 'zfs receive' man page section\n discussing the limitations of raw encrypted send streams.\n", zfs.ErrStreamFlags, ""},
	{"s", "receive", "b/t/fs@3", "cannot receive new filesystem stream: inherited key must be loaded\n", zfs.ErrKey, "load-key b/t/fs"},
	{"s", "receive", "b/t/fs@3", "cannot receive new filesystem stream: pool must be upgraded to receive this stream.\n", zfs.ErrUnsupported, ""},
	{"s", "receive", "b/t/fs@3", "cannot receive: stream has unsupported feature, feature flags = 8000000 (unknown flags = 8000000)\n", zfs.ErrUnsupported, ""},
	{"s", "receive", "b/t/fs@3", "cannot mount '/m/fs': failed to create mountpoint: Read-only file system\n", zfs.ErrNotMounted, ""},
	{"s", "rollback", "a/fs@1", "cannot rollback to 'a/fs@1': clones of previous snapshots exist\nuse '-R' to force deletion of the following clones and dependents:\na/fs/%recv\n", zfs.ErrHasClones, ""},
	{"s", "hold", "a/fs@1", "cannot hold snapshot 'a/fs@1': permission denied\n", zfs.ErrPermission, "zfs allow"},
	{"fo", "list", "p", "cannot open 'p': no such pool\n", zfs.ErrNotExist, ""},
	{"", "get", "a/fs", "Der Datensatz ist beschaeftigt\n", zfs.ErrUnclassified, "by hand"},
	{"", "get", "a/fs", "", zfs.ErrUnclassified, ""},
}

func TestClassify(t *testing.T) {
	for _, c := range texts {
		e := zfs.Classify(c.op, c.object, c.text, "exit status 1")
		if !errors.Is(e, c.class) {
			t.Errorf("%s %s: %q is %v, want %v", c.from, c.op, c.text, e.Class, c.class)
		}
		if !strings.Contains(e.Next, c.next) {
			t.Errorf("%q: next %q lacks %q", c.text, e.Next, c.next)
		}
		if e.Op != c.op || e.Object != c.object || e.Text == "" || strings.Contains(e.Text, "usage:") {
			t.Errorf("%+v", e)
		}
	}
}

func FuzzClassify(f *testing.F) {
	for _, c := range texts {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e := zfs.Classify("get", "a/b", text, "exit status 1")
		if e.Class == nil || e.Text == "" || len(e.Text) > 4<<10+16 || !utf8.ValidString(e.Error()) {
			t.Errorf("%q became %+v", text, e)
		}
	})
}

// TestNeverRun lists what no mistake of a caller may start.
func TestNeverRun(t *testing.T) {
	for _, args := range [][]string{
		{"destroy", "-r", "a/b"}, {"destroy", "-R", "a/b"}, {"destroy", "-f", "a/b"}, {"destroy", "-d", "a/b@1"}, {"destroy", "-vr", "a"},
		{"rollback", "-r", "a/b@1"}, {"rollback", "-Rf", "a/b@1"}, {"receive", "-F", "a/b@1"}, {"receive", "-uF", "a/b@1"},
		{"receive", "-d", "a"}, {"receive", "-e", "a"}, {"send", "-R", "a/b@1"}, {"send", "-p", "a/b@1"}, {"send", "-I", "@1", "a/b@2"},
		{"destroy", "a/b\x00@1"}, {"destroy", "--recursive", "a"},
	} {
		if err := zfs.Harmless(args...); !errors.Is(err, zfs.ErrInvalid) {
			t.Errorf("%q would be run: %v", args, err)
		}
	}
	for _, args := range [][]string{
		{"destroy", "a/b@1"}, {"receive", "-u", "-s", "-o", "readonly=on", "a/b@1"}, {"send", "-w", "-L", "-c", "-i", "a/b@1", "a/b@2"},
		{"receive", "-A", "a/b"}, {"set", "tarn:a=-F", "a/b"},
	} {
		if err := zfs.Harmless(args...); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}
