package export

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	tarnv1 "tarn/proto/tarn/v1"
)

// fakeRole makes the test binary stand in for exportfs, as far as it was seen to
// behave: new exports in front, options replaced in place, removal by name. The
// real one is in the tests that run in a virtual machine.
const fakeRole = "TARN_EXPORT_TEST_ETAB"

func TestMain(m *testing.M) {
	if etab := os.Getenv(fakeRole); etab != "" {
		if err := fakeExportfs(etab, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "exportfs:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func fakeExportfs(etab string, args []string) error {
	data, err := os.ReadFile(etab)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	lines := slices.Collect(strings.Lines(string(data)))
	if args[0] == "-f" {
		return nil
	}
	remove := args[0] == "-u"
	options := ""
	if remove {
		args = args[1:]
	} else {
		options, args = args[2], args[3:]
	}
	var added []string
	for _, arg := range args {
		client, path, _ := strings.Cut(arg, ":/")
		client = strings.NewReplacer("[", "", "]", "").Replace(client)
		key := "/" + path + "\t" + client + "("
		at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, key) })
		switch {
		case remove && at < 0:
			return fmt.Errorf("Could not find '%s' to unexport.", arg)
		case remove:
			lines = slices.Delete(lines, at, at+1)
		case at >= 0:
			lines[at] = key + options + ")\n"
		default:
			added = append(added, key+options+")\n")
		}
	}
	return os.WriteFile(etab, []byte(strings.Join(append(added, lines...), "")), 0o600)
}

type fakeServer struct {
	*Kernel
	dir, etab string
}

func newFakeServer(t *testing.T) fakeServer {
	t.Helper()
	dir := t.TempDir()
	etab := filepath.Join(dir, "etab")
	t.Setenv(fakeRole, etab)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	proc := filepath.Join(dir, "proc")
	if err := os.Mkdir(proc, 0o700); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{"threads": "8\n", "unlock_filesystem": ""} {
		if err := os.WriteFile(filepath.Join(proc, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, err := NewKernel(KernelConfig{
		Table: filepath.Join(dir, "table.json"), Host: "192.0.2.1", Dir: filepath.Join(dir, "exports.d"),
		Command: []string{self}, Etab: etab, Proc: proc, Caches: filepath.Join(dir, "caches"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return fakeServer{Kernel: k, dir: dir, etab: etab}
}

func (f fakeServer) read(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(f.etab)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// aMount is a path at which something is mounted everywhere.
const aMount = "/proc"

func TestKernelTellsExportfsWhatChanged(t *testing.T) {
	k := newFakeServer(t)
	foreign := "/srv/other\t10.0.0.0/8(rw,fsid=1)\n"
	if err := os.WriteFile(k.etab, []byte(foreign+aMount+"\t*(rw,no_root_squash)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustApply(t, k, aMount, exportsOf(shareFSID, rule("1", "10.0.0.1", rw), rule("2", "10.1.0.0/16", ro), rule("3", "2001:db8::/32", rw)), false)
	have := k.read(t)
	for _, want := range []string{foreign, aMount + "\t10.0.0.1(fsid=" + shareFSID + ",sync,no_subtree_check,mountpoint,rw,secure,root_squash,no_all_squash,sec=sys)\n",
		aMount + "\t10.1.0.0/16(fsid=" + shareFSID + ",sync,no_subtree_check,mountpoint,ro,secure,", aMount + "\t2001:db8::/32("} {
		if !strings.Contains(have, want) {
			t.Errorf("etab is\n%swant %q in it", have, want)
		}
	}
	if strings.Contains(have, "*") {
		t.Errorf("somebody else's export of the mountpoint is still there:\n%s", have)
	}
	file, err := os.ReadFile(k.file(aMount))
	if err != nil || !strings.Contains(string(file), aMount+" \\\n\t10.0.0.1(") {
		t.Errorf("file is %q, %v", file, err)
	}
	mustApply(t, k, aMount, &tarnv1.Exports{Fsid: shareFSID, Squash: tarnv1.Squash_SQUASH_ALL, Rules: []*tarnv1.ExportRule{rule("1", "10.0.0.1", rw)}}, true)
	if have = k.read(t); have != aMount+"\t10.0.0.1(fsid="+shareFSID+",sync,no_subtree_check,mountpoint,ro,secure,root_squash,all_squash,sec=sys)\n"+foreign &&
		have != foreign+aMount+"\t10.0.0.1(fsid="+shareFSID+",sync,no_subtree_check,mountpoint,ro,secure,root_squash,all_squash,sec=sys)\n" {
		t.Errorf("etab is\n%s", have)
	}
	mustRemove(t, k, aMount)
	mustRemove(t, k, aMount)
	if have = k.read(t); have != foreign {
		t.Errorf("after removal etab is\n%s", have)
	}
	if _, err := os.Stat(k.file(aMount)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("export file after removal: %v", err)
	}
	unlocked, err := os.ReadFile(filepath.Join(k.dir, "proc", "unlock_filesystem"))
	if err != nil || !strings.HasPrefix(string(unlocked), aMount+"\n") {
		t.Errorf("state of clients was not ended: %q, %v", unlocked, err)
	}
	if all, _ := k.List(t.Context()); len(all) != 0 {
		t.Errorf("table after removal is %v", all)
	}
}

// TestKernelFollowsAMountpoint: the export of a share that is mounted elsewhere by now does
// not stand in the way of its new one; one that is mounted does.
func TestKernelFollowsAMountpoint(t *testing.T) {
	k := newFakeServer(t)
	const before = "/tarn-nowhere/old"
	if err := os.WriteFile(k.etab, []byte(before+"\t10.0.0.1(rw,fsid="+shareFSID+")\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.table.put(Export{Mountpoint: before, FSID: shareFSID, Squash: SquashRoot, Clients: []Client{}}); err != nil {
		t.Fatal(err)
	}
	mustApply(t, k, aMount, exportsOf(shareFSID, rule("1", "10.0.0.1", rw)), false)
	if have := k.read(t); strings.Contains(have, before) || !strings.Contains(have, aMount+"\t10.0.0.1(") {
		t.Errorf("etab is\n%s", have)
	}
	if all, _ := k.List(t.Context()); len(all) != 1 || all[0].Mountpoint != aMount {
		t.Errorf("the table has %v", all)
	}
	if err := k.displace(t.Context(), Export{Mountpoint: before, FSID: shareFSID}); err != nil {
		t.Error(err)
	}
	if all, _ := k.List(t.Context()); len(all) != 1 {
		t.Errorf("what is mounted was taken away: %v", all)
	}
}

func TestKernelRefusesWhatItCannotServe(t *testing.T) {
	k := newFakeServer(t)
	for _, c := range []struct {
		mountpoint, fsid, want string
	}{
		{k.dir, shareFSID, "nothing is mounted"},
		{"/pro\tc", shareFSID, "set another mountpoint"},
		{"/proc\"", shareFSID, "set another mountpoint"},
		{aMount, "1", "not a UUID"},
		{aMount, strings.ToUpper(shareFSID), "not a UUID"},
	} {
		if _, _, err := k.Apply(t.Context(), c.mountpoint, exportsOf(c.fsid), false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q under %q: %v, want %q", c.mountpoint, c.fsid, err, c.want)
		}
	}
	mustApply(t, k, aMount, exportsOf(shareFSID), false)
	if _, _, err := k.Apply(t.Context(), "/sys", exportsOf(shareFSID), false); err == nil || !strings.Contains(err.Error(), "already that of /proc") {
		t.Errorf("two mountpoints with one fsid: %v", err)
	}
	for _, act := range []func() error{
		func() error { return k.Remove(t.Context(), aMount) },
		func() error {
			_, _, err := k.Apply(t.Context(), aMount, exportsOf(shareFSID, rule("2", "10.0.0.2", rw)), false)
			return err
		},
	} {
		if err := os.WriteFile(k.etab, []byte("/\t*(rw,crossmnt)\n"+aMount+"\t10.0.0.1(rw)\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := act(); err == nil || !strings.Contains(err.Error(), "crossmnt") {
			t.Errorf("no word though clients reach it through another export: %v", err)
		}
		if have := k.read(t); strings.Contains(have, "10.0.0.") {
			t.Errorf("what could be taken away is still there:\n%s", have)
		}
	}
	if err := os.WriteFile(filepath.Join(k.dir, "proc", "threads"), []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.etab, []byte(aMount+"\t10.0.0.1(rw)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.Apply(t.Context(), aMount, exportsOf(shareFSID, rule("2", "10.0.0.2", rw)), false); err == nil || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("without a server: %v", err)
	}
	file, err := os.ReadFile(k.file(aMount))
	if have := k.read(t); have != "" || err != nil || strings.Contains(string(file), "10.0.0.1(") {
		t.Errorf("the server's start brings back what was taken away: %q, %q, %v", have, file, err)
	}
}

// Networks cut up around each other give every address the access that the most
// specific rule gives it.
func TestCutNetworksMeanTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *tarnv1.ExportRule {
			bits := rapid.IntRange(0, 32).Draw(t, "bits")
			addr := netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 3).Draw(t, "b")), 0, byte(rapid.IntRange(0, 255).Draw(t, "d"))})
			level := rapid.SampledFrom([]tarnv1.AccessLevel{rw, ro}).Draw(t, "level")
			return rule("x", netip.PrefixFrom(addr, bits).Masked().String(), level)
		}), 0, 12).Draw(t, "rules")
		clients, _ := Clients(rules, false)
		cut, err := disjoint(clients)
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			addr := netip.AddrFrom4([4]byte{10, byte(rand.IntN(4)), byte(rand.IntN(2) * 77), byte(rand.IntN(256))})
			want, ok := access(clients, addr)
			// As the kernel: a host first, then networks in any order.
			var found []Client
			for _, c := range cut {
				if c.Prefix.Contains(addr) && (c.Prefix.IsSingleIP() || len(found) == 0 || !found[0].Prefix.IsSingleIP()) {
					if c.Prefix.IsSingleIP() {
						found = nil
					}
					found = append(found, c)
				}
			}
			if ok != (len(found) > 0) {
				t.Fatalf("%s is allowed %v, cut %v", addr, ok, found)
			}
			for _, f := range found {
				if f.ReadOnly != want.ReadOnly {
					t.Fatalf("%s: rule %v, cut %v", addr, want, f)
				}
			}
		}
	})
}

func TestHolesInIPv6(t *testing.T) {
	clients, _ := Clients([]*tarnv1.ExportRule{rule("1", "::/0", rw), rule("2", "2001:db8::/32", ro)}, false)
	cut, err := disjoint(clients)
	if err != nil || len(cut) != 1+1+31 {
		t.Errorf("cut into %d, %v", len(cut), err)
	}
	for addr, readOnly := range map[string]bool{"2001:db8::1": true, "2001:db9::1": false, "::1": false, "ff02::1": false} {
		if c, ok := access(cut, netip.MustParseAddr(addr)); !ok || c.ReadOnly != readOnly {
			t.Errorf("%s: %v %v", addr, c, ok)
		}
	}
}

func FuzzParseEtab(f *testing.F) {
	f.Add([]byte("/a/t\t10.0.0.1(ro,sync)\n/with\\040space\t*(rw)\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, err := parseEtab(data)
		if err == nil && len(lines) > len(data) {
			t.Fatal("more lines than bytes")
		}
	})
}

func TestEtabPathsAreUnescaped(t *testing.T) {
	lines, err := parseEtab([]byte("/a\\040b\\134\t2001:db8::/32(ro,fsid=1)\n"))
	if err != nil || len(lines) != 1 || lines[0].path != "/a b\\" || lines[0].client != "2001:db8::/32" || !slices.Contains(lines[0].options, "fsid=1") {
		t.Errorf("%+v, %v", lines, err)
	}
	for _, bad := range []string{"/a 10.0.0.1(ro)", "/a\t10.0.0.1", "/a\t10.0.0.1(ro"} {
		if _, err := parseEtab([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
