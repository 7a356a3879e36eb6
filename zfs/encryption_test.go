package zfs_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest"
	"tarn/zfs/zfstest/realzfs"
)

// sealedRig is an encrypted dataset on one pool and its raw copy on another.
type sealedRig struct {
	t    *testing.T
	h    *zfs.Host
	a, b string // datasets
	file string // of the key
}

func newSealedRig(t *testing.T) *sealedRig {
	t.Helper()
	src, dst := realzfs.NewPool(t, 512), realzfs.NewPool(t, 512)
	r := &sealedRig{t: t, h: open(t, src, dst), a: src.Name + "/share", b: dst.Name + "/share", file: filepath.Join(t.TempDir(), "key")}
	caps, err := r.h.Capabilities(t.Context())
	r.ok(err)
	if !caps.Encryption {
		t.Skipf("%s %s does not encrypt", caps.Engine, caps.Version)
	}
	r.ok(os.WriteFile(r.file, []byte(strings.Repeat("k", 32)), 0o600))
	r.ok(r.h.Create(t.Context(), r.a, map[string]string{
		zfs.PropEncryption: "aes-256-gcm", zfs.PropKeyFormat: "raw", zfs.PropKeyLocation: "file://" + r.file,
	}, false))
	return r
}

func (r *sealedRig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// write puts text into a file of the dataset and snapshots it.
func (r *sealedRig) write(dataset, snapshot string) {
	r.t.Helper()
	r.ok(r.h.LoadKey(r.t.Context(), dataset, r.file))
	r.ok(r.h.Set(r.t.Context(), dataset, map[string]string{zfs.PropReadOnly: "off"}))
	r.ok(r.h.Mount(r.t.Context(), dataset))
	d, err := r.h.Dataset(r.t.Context(), dataset)
	r.ok(err)
	r.ok(os.WriteFile(filepath.Join(d.Mountpoint, snapshot), []byte(strings.Repeat(snapshot+" of "+dataset+"\n", 9000)), 0o600))
	r.ok(r.h.Snapshot(r.t.Context(), dataset+"@"+snapshot))
	r.ok(r.h.Unmount(r.t.Context(), dataset, false))
	r.ok(r.h.Set(r.t.Context(), dataset, map[string]string{zfs.PropReadOnly: "on"}))
}

// lock unloads the key, as a host that never had it.
func (r *sealedRig) lock(dataset string) {
	r.t.Helper()
	r.ok(realzfs.Zfs("unload-key", dataset))
}

func (r *sealedRig) raw(from, base, snapshot, to string) error {
	r.t.Helper()
	stream, err := r.h.Send(r.t.Context(), zfs.SendRequest{Dataset: from, From: base, To: snapshot, Flags: zfs.StreamFlags{Raw: true}})
	r.ok(err)
	return errors.Join(r.h.Receive(r.t.Context(), zfs.ReceiveRequest{Target: to + "@" + snapshot, Raw: true, Resumable: true}, stream), stream.Close())
}

// tree mounts a dataset for a look at everything in it.
func (r *sealedRig) tree(dataset string) map[string]zfstest.Node {
	r.t.Helper()
	r.ok(r.h.LoadKey(r.t.Context(), dataset, r.file))
	r.ok(r.h.Mount(r.t.Context(), dataset))
	d, err := r.h.Dataset(r.t.Context(), dataset)
	r.ok(err)
	tree, err := zfstest.ReadTree(d.Mountpoint)
	r.ok(err)
	r.ok(r.h.Unmount(r.t.Context(), dataset, false))
	return tree
}

// whole scrubs both pools, which have to be without an error afterwards.
func (r *sealedRig) whole() {
	r.t.Helper()
	for _, dataset := range []string{r.a, r.b} {
		pool, _, _ := strings.Cut(dataset, "/")
		r.ok(realzfs.Zpool("scrub", "-w", pool))
		out, err := exec.CommandContext(r.t.Context(), "/usr/sbin/zpool", "status", "-v", pool).Output()
		r.ok(err)
		if !strings.Contains(string(out), "No known data errors") {
			r.t.Errorf("after a scrub: %s", out)
		}
	}
}

func (r *sealedRig) same() {
	r.t.Helper()
	a, b := r.tree(r.a), r.tree(r.b)
	if len(a) < 2 || len(a) != len(b) {
		r.t.Fatalf("%d and %d files", len(a), len(b))
	}
	for name, node := range a {
		if b[name] != node {
			r.t.Errorf("%s: %+v and %+v", name, node, b[name])
		}
	}
}

// TestRawStreamsReturn is a failback and another one: raw streams go out, come back,
// and go out again, and every dataset is readable and free of errors after each. That
// is what was broken before OpenZFS 2.2 for keys that are inherited.
func TestRawStreamsReturn(t *testing.T) {
	r := newSealedRig(t)
	r.write(r.a, "1")
	r.ok(r.raw(r.a, "", "1", r.b))
	from, to, base := r.a, r.b, "@1"
	for _, snapshot := range []string{"2", "3", "4", "5"} {
		r.write(from, snapshot)
		r.lock(from)
		if d, err := r.h.Dataset(t.Context(), to); err != nil || d.KeyLoaded {
			if err != nil {
				t.Fatal(err)
			}
			r.lock(to)
		}
		r.ok(r.raw(from, base, snapshot, to))
		r.same()
		r.whole()
		from, to, base = to, from, "@"+snapshot
	}
}

// TestChangedKeyTravels: a key that is changed on one host is what the other one needs
// after the next stream.
func TestChangedKeyTravels(t *testing.T) {
	r := newSealedRig(t)
	r.write(r.a, "1")
	r.ok(r.raw(r.a, "", "1", r.b))
	second := r.file + ".new"
	r.ok(os.WriteFile(second, []byte(strings.Repeat("n", 32)), 0o600))
	r.ok(realzfs.Zfs("change-key", "-o", "keyformat=raw", "-o", "keylocation=file://"+second, r.a))
	r.write(r.a, "2")
	r.ok(r.raw(r.a, "@1", "2", r.b))
	if err := r.h.LoadKey(t.Context(), r.b, r.file); !errors.Is(err, zfs.ErrKey) {
		t.Errorf("the old key on the other host: %v", err)
	}
	r.file = second
	r.same()
}
