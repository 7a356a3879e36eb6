package adoption

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

func TestMain(m *testing.M) { os.Exit(realzfs.Main(m)) }

// output runs a tool as an administrator would.
func output(t *testing.T, tool string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tool, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", tool, strings.Join(args, " "), err, out.String(), problems.String())
	}
	return out.String()
}

func write(t *testing.T, dir, name string, size int) {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data) // never fails
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// portrait is everything of a dataset that giving it back has to restore: its own
// properties, its snapshots with their identities and holds, and where it is mounted.
func portrait(t *testing.T, name string) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(output(t, "zfs", "get", "-H", "-o", "property,value,source", "all", name)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		// Those that are never inherited have a default, and are set to it.
		never := f[0] == "canmount" || f[0] == "quota" || f[0] == "refquota"
		switch {
		case never:
			lines = append(lines, f[0]+" "+f[1])
		case f[2] == "local" || f[2] == "received" || slices.Contains([]string{"readonly", "mountpoint", "mounted"}, f[0]):
			lines = append(lines, strings.Join(f, " "))
		}
	}
	slices.Sort(lines)
	lines = append(lines, snapshots(t, name)...)
	return strings.Join(lines, "\n")
}

// snapshots are those that are not tarn's, with GUID and the number of holds.
func snapshots(t *testing.T, name string) []string {
	t.Helper()
	var lines []string
	for full := range strings.FieldsSeq(output(t, "zfs", "list", "-H", "-r", "-t", "snapshot", "-o", "name", "-s", "creation", name)) {
		if strings.Contains(full, "@tarn.") {
			continue
		}
		lines = append(lines, full+" "+strings.ReplaceAll(output(t, "zfs", "get", "-H", "-p", "-o", "value", "guid,userrefs", full), "\n", " "))
	}
	slices.Sort(lines)
	return lines
}

// pair is a dataset on one pool and a copy on another that some tool made, neither of
// which has ever heard of tarn.
type pair struct {
	a, b         *host
	home, backup string
	path, copy   string // where they are mounted
}

const bulk = 24 << 20

// newPair makes the dataset; replicated lets a tool copy it.
func newPair(t *testing.T, replicate func(p *pair)) *pair {
	t.Helper()
	one, two := realzfs.NewPool(t, 512), realzfs.NewPool(t, 512)
	ca, err := identity.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	share := uuid.NewString()
	p := &pair{home: one.Name + "/home", backup: two.Name + "/backup", path: filepath.Join(one.Dir, "home"), copy: filepath.Join(two.Dir, "backup")}
	p.a, p.b = newHost(t, ca, share, one.Name), newHost(t, ca, share, two.Name)
	output(t, "zfs", "create", "-o", "compression=on", "-o", "quota=2G", "-o", "com.example:owner=web", p.home)
	write(t, p.path, "bulk", bulk)
	output(t, "zfs", "snapshot", p.home+"@monday")
	write(t, p.path, "tuesday", 1000)
	output(t, "zfs", "snapshot", p.home+"@tuesday")
	output(t, "zfs", "hold", "keep", p.home+"@monday")
	replicate(p)
	write(t, p.path, "thursday", 1000)
	return p
}

// syncoid runs once more; its snapshots are named by the second and by what is given here.
func (p *pair) syncoid(t *testing.T, run string) {
	t.Helper()
	output(t, "syncoid", "--no-privilege-elevation", "--identifier="+run, p.home, p.backup)
}

// needSyncoid says why there is none; where everything is required it fails.
func needSyncoid(t *testing.T) {
	t.Helper()
	_, err := os.Stat("/usr/sbin/syncoid")
	switch {
	case err == nil:
	case os.Getenv("TARN_VM") != "":
		t.Skip("the virtual machine has no perl for syncoid; zfs-fuse shows this")
	case os.Getenv("TARN_REQUIRE_ALL") == "1":
		t.Fatal("syncoid is required (Debian: apt-get install sanoid)")
	default:
		t.Skip("no syncoid (Debian: apt-get install sanoid)")
	}
}

// send copies as a tool does; the first snapshot whole, others as increments from base.
func (p *pair) send(t *testing.T, base, snapshot string) {
	t.Helper()
	args := []string{"send"}
	if base != "" {
		args = append(args, "-i", base)
	}
	from := exec.Command("/usr/sbin/zfs", append(args, p.home+"@"+snapshot)...)
	to := exec.Command("/usr/sbin/zfs", "receive", p.backup+"@"+snapshot)
	var err error
	if to.Stdin, err = from.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{from.Start, to.Run, from.Wait} {
		if err := step(); err != nil {
			t.Fatalf("send %s: %v", snapshot, err)
		}
	}
}

// zrepl leaves what zrepl does: its last snapshot, held on the copy; on the source it
// may only be a bookmark any more, where there are bookmarks.
func (p *pair) zrepl(t *testing.T) {
	t.Helper()
	const last = "zrepl_20261126_060000_000"
	p.send(t, "", "monday")
	output(t, "zfs", "snapshot", p.home+"@"+last)
	p.send(t, "@monday", last)
	output(t, "zfs", "hold", "zrepl_last_received_J_pull", p.backup+"@"+last)
	if caps, err := p.a.fs.Capabilities(t.Context()); err != nil || !caps.Bookmarks {
		return
	}
	output(t, "zfs", "bookmark", p.home+"@"+last, p.home+"#zrepl_CURSOR_G_6a5ee8b7f0c04f31_J_push")
	output(t, "zfs", "destroy", p.home+"@"+last)
	output(t, "zfs", "release", "keep", p.home+"@monday")
	output(t, "zfs", "destroy", p.home+"@monday")
}

// follows is the assignment of the copy.
func (p *pair) follows(a *tarnv1.Assignment) {
	a.Source = &tarnv1.Source{ReplicaId: p.a.replica, HostId: p.a.id, Address: p.a.addr}
}

func (p *pair) leads(a *tarnv1.Assignment) {
	a.Peers = []*tarnv1.Peer{{ReplicaId: p.b.replica, HostId: p.b.id}}
}

// equal reports that both sides have the same newest snapshot and it is all there is.
func (p *pair) equal() bool {
	return p.b.report().GetReady() && p.b.report().GetHeadGuid() != 0 && p.b.report().GetHeadGuid() == p.a.report().GetHeadGuid() &&
		p.a.report().GetDirtyBytes() == 0
}

// takeOver makes the two a share and its replica, and waits until both are equal.
func (p *pair) takeOver() {
	p.a.start()
	p.b.start()
	p.a.assign(tarnv1.Role_ROLE_ACTIVE, p.home, p.leads)
	p.a.lease.set(true)
	p.a.until("active is writable", func() bool { return p.a.report().GetWritable() })
	p.a.assign(tarnv1.Role_ROLE_ACTIVE, p.home, p.leads, func(a *tarnv1.Assignment) { a.SizeGib, a.Established = 2, true })
	p.b.assign(tarnv1.Role_ROLE_SECONDARY, p.backup, p.follows)
	p.b.until("the copy follows", p.equal)
}

// onlyDelta checks that the copy went on from what it had.
func (p *pair) onlyDelta(t *testing.T) {
	t.Helper()
	write(t, p.path, "friday", 1000)
	p.b.until("the copy goes on", func() bool { return p.equal() && p.has("friday") && p.has("thursday") })
	moved, steps := p.b.received()
	if steps["full ok"] != 0 || moved > bulk/8 {
		t.Errorf("%d bytes travelled in %v", moved, steps)
	}
	t.Logf("%d bytes travelled in %v for a dataset of %d", moved, steps, bulk)
}

// A dataset and its copy by syncoid become a share with a replica. Only what was
// written since syncoid's last run travels, both are given back as they were, and
// syncoid goes on.
func TestSyncoidsPairIsTakenOverAndGivenBack(t *testing.T) {
	needSyncoid(t)
	p := newPair(t, func(p *pair) {
		p.syncoid(t, "one")
		write(t, p.path, "wednesday", 1000)
		p.syncoid(t, "two")
	})
	p.thereAndBack(t)
	p.syncoid(t, "three")
}

// The same with what zrepl leaves: holds of its own, and a bookmark for a base.
func TestZreplsPairIsTakenOverAndGivenBack(t *testing.T) {
	p := newPair(t, func(p *pair) { p.zrepl(t) })
	p.thereAndBack(t)
	if caps, err := p.a.fs.Capabilities(t.Context()); err != nil || !caps.Bookmarks {
		t.Logf("without bookmarks here (%v): the base was a snapshot", err)
	} else if _, steps := p.b.received(); steps["bookmark ok"] == 0 {
		t.Errorf("steps %v, want one from a bookmark", steps)
	}
}

func (p *pair) thereAndBack(t *testing.T) {
	t.Helper()
	home, backup := portrait(t, p.home), portrait(t, p.backup)
	p.takeOver()
	if n := p.a.report().GetAppliedSizeGib(); n != 2 {
		t.Errorf("a dataset with a quota of 2 GiB counts %d", n)
	}
	if ds, err := p.a.fs.Dataset(t.Context(), p.a.dataset()); err != nil || ds.Mountpoint != p.path || !ds.Mounted {
		t.Errorf("clients find it at %+v, %v", ds, err)
	}
	p.onlyDelta(t)
	p.giveBack(p.b, p.backup)
	p.a.lease.set(false)
	p.giveBack(p.a, p.home)
	if got := portrait(t, p.home); got != home {
		t.Errorf("was\n%s\nis\n%s", home, got)
	}
	if got := portrait(t, p.backup); got != backup {
		t.Errorf("copy was\n%s\nis\n%s", backup, got)
	}
	write(t, p.path, "saturday", 1000) // it is mounted and its owner's again
}

// What a copy has beyond the common snapshot, in snapshots and written since, is kept
// aside whole; nothing is copied for that, and nothing is sent again.
func TestCopyWithDataOfItsOwn(t *testing.T) {
	p := newPair(t, func(p *pair) {
		p.zrepl(t)
		write(t, p.copy, "own", 1000)
		output(t, "zfs", "snapshot", p.backup+"@own")
		write(t, p.copy, "dirty", 1000)
	})
	p.takeOver()
	p.onlyDelta(t)
	if p.has("own") || p.has("dirty") {
		t.Error("the replica shows what is not the share's")
	}
	p.b.until("kept aside", func() bool { return len(p.b.report().GetDivergentCopies()) == 1 })
	aside := p.b.report().GetDivergentCopies()[0].GetDataset()
	dir := t.TempDir()
	for _, args := range [][]string{{"set", "mountpoint=" + dir, aside}, {"mount", aside}} {
		if err := realzfs.Zfs(args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"bulk", "own", "dirty"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Errorf("kept aside: %v", err)
		}
	}
	if err := realzfs.Zfs("unmount", aside); err != nil {
		t.Error(err)
	}
}

// has reports that the copy's newest snapshot has a file.
func (p *pair) has(file string) bool {
	ds, err := p.b.fs.Dataset(p.b.t.Context(), p.b.dataset())
	if err != nil || !ds.Mounted {
		return false
	}
	_, err = os.Stat(filepath.Join(ds.Mountpoint, file))
	return err == nil
}

// giveBack ends one side's life as a replica, and looks for what may be left of it.
func (p *pair) giveBack(h *host, as string) {
	h.t.Helper()
	h.assign(tarnv1.Role_ROLE_RELEASING, as)
	h.until("given back", func() bool { return h.report().GetGone() })
	for line := range strings.Lines(output(h.t, "zfs", "get", "-H", "-r", "-o", "name,property,source", "all", as)) {
		if strings.Contains(line, "\ttarn:") {
			h.t.Errorf("left: %s", line)
		}
	}
	versions, err := h.fs.Versions(h.t.Context(), as)
	h.must(err)
	for _, v := range versions {
		if v.Kind == zfs.KindBookmark && strings.HasPrefix(v.Name, "tarn.") {
			h.t.Errorf("left: %s", v.FullName())
		}
		if v.Kind == zfs.KindSnapshot && strings.HasPrefix(v.Name, "tarn.") && v.UserRefs > 0 {
			h.t.Errorf("held: %s", v.FullName())
		}
	}
	list, err := h.fs.Datasets(h.t.Context(), h.root())
	h.must(err)
	for _, d := range list[1:] {
		if d.Name != h.root()+"/.staging" {
			h.t.Errorf("left: %s", d.Name)
		}
	}
}
