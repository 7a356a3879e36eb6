package export

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

const shareFSID = "0198f0aa-1111-7222-8333-444455556666"

func freePort(t *testing.T, ip string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// shortDir is a directory with a path short enough for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tarn-nfs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// startGanesha runs an exporter with its own Ganesha and waits until it answers.
func startGanesha(t *testing.T, dir string, listen netip.AddrPort) *Ganesha {
	t.Helper()
	g := newGanesha(t, dir, listen)
	runExporter(t, g)
	until(t, 30*time.Second, func() error { return g.runner.answers(t.Context()) })
	return g
}

func newGanesha(t *testing.T, dir string, listen netip.AddrPort) *Ganesha {
	t.Helper()
	needRoot(t)
	need(t, "ganesha.nfsd", "dbus-daemon", "nfs-cat", "nfs-cp", "nfs-ls")
	g, err := NewGanesha(GaneshaConfig{
		Table: filepath.Join(dir, "exports.json"), Host: "127.0.0.1", Dir: filepath.Join(dir, "g"), Listen: listen, AnyPort: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if busPID(g.runner.layout) != 0 || ganeshaPID(g.runner.layout) != 0 {
			t.Error("processes are left")
			g.runner.stop()
		}
	})
	return g
}

func runExporter(t *testing.T, e exporter) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// share makes a directory, if it is not there, that anybody may write, with a file.
func share(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func exportsOf(fsid string, rules ...*tarnv1.ExportRule) *tarnv1.Exports {
	return &tarnv1.Exports{Revision: 1, Fsid: fsid, Rules: rules}
}

func mustApply(t *testing.T, e exporter, mountpoint string, want *tarnv1.Exports, readOnly bool) {
	t.Helper()
	begun := time.Now()
	if _, refused, err := e.Apply(t.Context(), mountpoint, want, readOnly); err != nil || len(refused) > 0 {
		t.Fatalf("apply: %v, %v", err, refused)
	}
	bound := time.Second
	if os.Getenv("TARN_VM") != "" || os.Getenv(fakeRole) != "" {
		bound *= 15 // an emulated processor, or a double that is slower to start than what it stands for
	}
	if took := time.Since(begun); took > bound {
		t.Logf("access rules took %s to apply", took)
		if slowApplies.Add(1) > 1 {
			t.Errorf("access rules took more than %s to apply, again", bound)
		}
	}
}

// slowApplies counts in all tests: one may meet a disk that stands still for a moment.
var slowApplies atomic.Int32

func mustRemove(t *testing.T, e exporter, mountpoint string) {
	t.Helper()
	if err := e.Remove(t.Context(), mountpoint); err != nil {
		t.Fatal(err)
	}
}

// checkRules is what every server must do, seen by a real client from several addresses.
func checkRules(t *testing.T, e exporter, version int, server netip.AddrPort, dir string) {
	t.Helper()
	a, b := share(t, filepath.Join(dir, "a")), share(t, filepath.Join(dir, "b"))
	writer := newClient(t, version, "127.0.0.5", server)
	reader := newClient(t, version, "127.0.0.6", server)
	other := newClient(t, version, "127.0.0.7", server)

	mustApply(t, e, a, exportsOf(shareFSID, rule("w", "127.0.0.5", rw), rule("r", "127.0.0.6", ro)), false)
	mustApply(t, e, b, exportsOf("0198f0aa-1111-7222-8333-444455557777", rule("w", "127.0.0.7", rw)), false)
	writer.mustWrite(a+"/w", "written\n")
	writer.mustRead(a+"/w", "written\n")
	reader.mustRead(a+"/w", "written\n")
	reader.mustNotWrite(a + "/r")
	other.mustNotRead(a + "/hello")
	other.mustNotWrite(a + "/o")
	other.mustWrite(b+"/o", "mine\n") // another export is not touched
	writer.mustNotRead(b + "/hello")
	if out, err := writer.list(a); err != nil || out == "" {
		t.Errorf("list: %q, %v", out, err)
	}

	t.Log("the most specific rule counts, whatever the order")
	mustApply(t, e, a, exportsOf(shareFSID, rule("all", "0.0.0.0/0", ro), rule("net", "127.0.0.0/24", rw), rule("r", "127.0.0.6", ro),
		rule("sub", "127.0.0.4/31", ro), rule("v6", "::/0", rw), rule("v6n", "2001:db8::/48", ro)), false)
	other.mustWrite(a+"/o", "now\n")
	reader.mustNotWrite(a + "/r")
	writer.mustRead(a+"/w", "written\n")
	writer.mustNotWrite(a + "/w2")

	t.Log("a removed rule ends what was open")
	open := writer.open(a + "/large")
	mustApply(t, e, a, exportsOf(shareFSID, rule("r", "127.0.0.6", ro)), false)
	if n, err := open.finish(); err == nil {
		t.Errorf("a client without a rule read %d bytes to the end", n)
	}
	writer.mustNotRead(a + "/hello")
	reader.mustRead(a+"/hello", "hello\n")

	t.Log("a removed export ends what was open")
	open = reader.open(a + "/large")
	mustRemove(t, e, a)
	mustRemove(t, e, a)
	if n, err := open.finish(); err == nil {
		t.Errorf("%d bytes of a removed export were read to the end", n)
	}
	reader.mustNotRead(a + "/hello")
	other.mustRead(b+"/o", "mine\n")

	t.Log("read-only for everybody")
	mustApply(t, e, a, exportsOf(shareFSID, rule("w", "127.0.0.5", rw)), true)
	writer.mustRead(a+"/hello", "hello\n")
	writer.mustNotWrite(a + "/w3")
	mustApply(t, e, a, exportsOf(shareFSID, rule("w", "127.0.0.5", rw)), false)
	writer.mustWrite(a+"/w3", "promoted\n")
}

// checkSquash is whom a client's users are taken for, with every server.
func checkSquash(t *testing.T, e exporter, version int, server netip.AddrPort, dir string) {
	t.Helper()
	s := share(t, filepath.Join(dir, "squash"))
	client := newClient(t, version, "127.0.0.5", server)
	for i, c := range []struct {
		squash tarnv1.Squash
		uid    int
		owner  uint32
	}{
		{tarnv1.Squash_SQUASH_UNSPECIFIED, 0, 65534}, {tarnv1.Squash_SQUASH_ROOT, 1000, 1000}, {tarnv1.Squash_SQUASH_NONE, 0, 0},
		{tarnv1.Squash_SQUASH_ALL, 1000, 65534}, {tarnv1.Squash_SQUASH_ROOT, 0, 65534},
	} {
		want := exportsOf("0198f0aa-1111-7222-8333-444455558888", rule("w", "127.0.0.5", rw))
		want.Squash = c.squash
		mustApply(t, e, s, want, false)
		client.uid = c.uid
		file := fmt.Sprintf("%s/by%d", s, i)
		client.mustWrite(file, "x")
		var st syscall.Stat_t
		if err := syscall.Stat(file, &st); err != nil || st.Uid != c.owner {
			t.Errorf("squash %v: user %d made a file of %d, %v; want %d", c.squash, c.uid, st.Uid, err, c.owner)
		}
	}
	mustRemove(t, e, s)
}

func TestGaneshaEnforcesRules(t *testing.T) {
	dir := shortDir(t)
	server := freePort(t, "127.0.0.1")
	g := startGanesha(t, dir, server)
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	checkRules(t, g, 4, server, data)
	checkSquash(t, g, 4, server, data)
}

func TestGaneshaTextHoldsNothingOfACaller(t *testing.T) {
	want := exportsOf(shareFSID, rule("1", "10.0.0.1", rw), rule("2", "0.0.0.0/0", ro), rule("3", "x; } EXPORT { Path = /; }", rw), rule("4", "2001:db8::/120", rw))
	e, refused, err := plan("/tank/tarn/a", want, false, ganeshaPrefix)
	if err != nil || len(refused) != 2 || refused[0].GetAccessRuleId() != "3" || refused[1].GetAccessRuleId() != "4" {
		t.Fatalf("refused %v, %v", refused, err)
	}
	e.ID = 4711
	got := ganeshaText(e, ganeshaClients(e, false))
	const text = `# Written by the tarn agent, which owns this file: changes are lost.
EXPORT {
	Export_Id = 4711;
	Path = "/tank/tarn/a";
	Pseudo = "/tank/tarn/a";
	Filesystem_Id = 115106403719410210.9453975103060928102;
	Access_Type = None;
	Protocols = 4;
	Transports = TCP;
	SecType = sys;
	FSAL { Name = VFS; }
	CLIENT { Clients = 10.0.0.1; Access_Type = RW; Squash = root_squash; Anonymous_Uid = 65534; Anonymous_Gid = 65534; PrivilegedPort = true; Protocols = 4; }
	CLIENT { Clients = 0.0.0.0/1; Access_Type = RO; Squash = root_squash; Anonymous_Uid = 65534; Anonymous_Gid = 65534; PrivilegedPort = true; Protocols = 4; }
	CLIENT { Clients = 128.0.0.0/1; Access_Type = RO; Squash = root_squash; Anonymous_Uid = 65534; Anonymous_Gid = 65534; PrivilegedPort = true; Protocols = 4; }
}
`
	if got != text {
		t.Errorf("got\n%s", got)
	}
}

func TestExportIDsAreTheSameEverywhereAndNeverTwice(t *testing.T) {
	used := map[uint16]bool{}
	taken := func(id uint16) bool { return used[id] }
	first, err := exportID(shareFSID, taken)
	if err != nil || first < 1024 {
		t.Fatal(first, err)
	}
	if again, _ := exportID(shareFSID, taken); again != first {
		t.Errorf("%d, then %d", first, again)
	}
	for range 500 {
		id, err := exportID(shareFSID, taken)
		if err != nil || used[id] {
			t.Fatalf("id %d is used twice, %v", id, err)
		}
		used[id] = true
	}
	if id, err := exportID(shareFSID, func(id uint16) bool { return id != first-1 }); err != nil || id != first-1 {
		t.Errorf("the only free id %d was not found: %d, %v", first-1, id, err)
	}
	if _, err := exportID(shareFSID, func(uint16) bool { return true }); err == nil {
		t.Error("an id was found though all are taken")
	}
}

func TestAnswersOfGaneshaAreRead(t *testing.T) {
	good := []any{[]any{uint64(1), uint64(2)}, [][]any{{uint16(7), "/a", "more"}, {uint16(0), "/"}}}
	if ids, err := exportIDs(good); err != nil || len(ids) != 2 || ids[7] != "/a" {
		t.Errorf("%v, %v", ids, err)
	}
	for _, bad := range [][]any{nil, {1}, {1, 2}, {1, [][]any{{uint16(7)}}}, {1, [][]any{{7, "/a"}}}} {
		if _, err := exportIDs(bad); err == nil {
			t.Errorf("%v was read", bad)
		}
	}
}

// The agent may be killed: its Ganesha goes on, and the next agent takes it over.
// Ganesha may be killed: the agent starts it again, with all that it served.
func TestGaneshaOutlivesTheAgentAndItself(t *testing.T) {
	dir := shortDir(t)
	server := freePort(t, "127.0.0.1")
	a := share(t, filepath.Join(dir, "a"))
	first := newGanesha(t, dir, server)
	// As Run does, but nobody is left to look after it.
	if err := errors.Join(first.runner.write(), first.runner.start(t.Context())); err != nil {
		t.Fatal(err)
	}
	mustApply(t, first, a, exportsOf(shareFSID, rule("w", "127.0.0.5", rw)), false)
	client := newClient(t, 4, "127.0.0.5", server)
	client.mustRead(a+"/hello", "hello\n")
	pid := ganeshaPID(first.runner.layout)

	second, err := NewGanesha(first.config)
	if err != nil {
		t.Fatal(err)
	}
	stop := runExporter(t, second)
	mustApply(t, second, a, exportsOf(shareFSID, rule("w", "127.0.0.5", ro)), false)
	if now := ganeshaPID(first.runner.layout); now != pid || pid == 0 {
		t.Errorf("NFS-Ganesha is process %d, was %d", now, pid)
	}
	client.mustNotWrite(a + "/w")

	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, func() error {
		if now := ganeshaPID(first.runner.layout); now == 0 || now == pid {
			return fmt.Errorf("process is %d, was %d", now, pid)
		}
		_, err := client.read(a + "/hello")
		return err
	})
	client.mustNotWrite(a + "/w")
	stop()
	if now := ganeshaPID(first.runner.layout); now != 0 {
		t.Errorf("process %d is left", now)
	}
}

// A Ganesha that somebody else runs is told the same way, and what else it serves
// stays as it is.
func TestGaneshaOfSomebodyElse(t *testing.T) {
	dir := shortDir(t)
	server := freePort(t, "127.0.0.1")
	theirs := startGanesha(t, dir, server)
	layout := theirs.runner.layout
	foreign := share(t, filepath.Join(dir, "foreign"))
	file := filepath.Join(layout.exports(), "foreign.conf")
	text := fmt.Sprintf("EXPORT { Export_Id = 7; Path = %q; Pseudo = %q; Protocols = 4; SecType = sys; Access_Type = RW; FSAL { Name = VFS; } }\n", foreign, foreign)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := dialBus(t.Context(), layout.busAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if err := b.add(t.Context(), file, 7); err != nil {
		t.Fatal(err)
	}
	g, err := NewGanesha(GaneshaConfig{
		Table: filepath.Join(dir, "ours.json"), Host: "127.0.0.1", AnyPort: true, Exports: layout.exports(), Bus: layout.busAddress(),
	})
	if err != nil {
		t.Fatal(err)
	}
	runExporter(t, g)
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	checkRules(t, g, 4, server, data)
	newClient(t, 4, "127.0.0.9", server).mustWrite(foreign+"/f", "untouched")
	info, err := b.show(t.Context(), 7)
	if err != nil || info.path != foreign {
		t.Errorf("the foreign export is %+v, %v", info, err)
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != text {
		t.Errorf("the foreign file is %q, %v", now, err)
	}
	// Its number is never taken from it.
	if id, err := g.number(Export{Mountpoint: "/x", FSID: shareFSID, ID: 0}, map[uint16]string{ganeshaID(t): "/elsewhere"}); err != nil || id == ganeshaID(t) {
		t.Errorf("number %d, %v", id, err)
	}
}

// ganeshaID is what a share's export would be called where nothing else is.
func ganeshaID(t *testing.T) uint16 {
	t.Helper()
	id, err := exportID(shareFSID, func(uint16) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	return id
}
