package export

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func startEmbedded(t *testing.T, dir, listen string, serving func(string, bool) bool) (*Embedded, netip.AddrPort) {
	t.Helper()
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEmbedded(EmbeddedConfig{
		Table: filepath.Join(dir, "exports.json"), Key: filepath.Join(dir, "nfs.key"), Host: "127.0.0.1",
		Socket: ln, Serving: serving, AnyPort: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	runExporter(t, e)
	return e, ln.Addr().(*net.TCPAddr).AddrPort()
}

func TestEmbeddedEnforcesRules(t *testing.T) {
	need(t, "nfs-cat", "nfs-cp", "nfs-ls")
	dir := t.TempDir()
	e, server := startEmbedded(t, dir, "127.0.0.1:0", nil)
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	checkRules(t, e, 3, server, data)
	if os.Getuid() == 0 {
		for d := data; d != "/"; d = filepath.Dir(d) {
			if info, err := os.Stat(d); err == nil && info.Mode()&0o001 == 0 {
				if err := os.Chmod(d, 0o755); err != nil { // others must pass
					t.Fatal(err)
				}
			}
		}
		checkSquash(t, e, 3, server, data)
	}
}

// After a promotion the rule that only read on a secondary writes on the new
// owner, another server, and the former owner serves nothing.
func TestEmbeddedPromotion(t *testing.T) {
	need(t, "nfs-cat", "nfs-cp")
	dirA, dirB := t.TempDir(), t.TempDir()
	a, serverA := startEmbedded(t, dirA, "127.0.0.1:0", nil)
	b, serverB := startEmbedded(t, dirB, "127.0.0.1:0", nil)
	pathA, pathB := share(t, filepath.Join(dirA, "s")), share(t, filepath.Join(dirB, "s"))
	clientA, clientB := newClient(t, 3, "127.0.0.5", serverA), newClient(t, 3, "127.0.0.5", serverB)
	rules := exportsOf(shareFSID, rule("w", "127.0.0.0/29", rw))
	mustApply(t, a, pathA, rules, false)
	mustApply(t, b, pathB, rules, true)
	clientA.mustWrite(pathA+"/w", "before")
	clientB.mustRead(pathB+"/hello", "hello\n")
	clientB.mustNotWrite(pathB + "/w")
	mustRemove(t, a, pathA)
	mustApply(t, b, pathB, rules, false)
	clientA.mustNotRead(pathA + "/hello")
	clientB.mustWrite(pathB+"/w", "after")
	clientB.mustRead(pathB+"/w", "after")
}

func TestEmbeddedOverIPv6(t *testing.T) {
	need(t, "nfs-cat", "nfs-cp")
	dir := t.TempDir()
	e, server := startEmbedded(t, dir, "[::1]:0", nil)
	path := share(t, filepath.Join(dir, "s"))
	client := newClient(t, 3, "::1", server)
	mustApply(t, e, path, exportsOf(shareFSID, rule("v4", "0.0.0.0/0", rw)), false)
	client.mustNotRead(path + "/hello")
	mustApply(t, e, path, exportsOf(shareFSID, rule("v6", "::/0", ro), rule("host", "::1", rw)), false)
	client.mustWrite(path+"/w", "six")
	mustApply(t, e, path, exportsOf(shareFSID, rule("v6", "::/16", ro)), false)
	client.mustRead(path+"/w", "six")
	client.mustNotWrite(path + "/w")
}

// A share that an earlier life of the agent served at another path is served where it is
// now; two paths that are both served cannot be the same share.
func TestEmbeddedForgetsWherePathsWereBefore(t *testing.T) {
	dir := t.TempDir()
	config := EmbeddedConfig{Table: filepath.Join(dir, "exports.json"), Key: filepath.Join(dir, "nfs.key"), Host: "127.0.0.1", Listen: "127.0.0.1:0"}
	before, after := share(t, filepath.Join(dir, "before")), share(t, filepath.Join(dir, "after"))
	rules := exportsOf(shareFSID, rule("w", "127.0.0.0/29", rw))
	first, err := NewEmbedded(config)
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, first, before, rules, false)
	if _, _, err := first.Apply(t.Context(), after, rules, false); err == nil {
		t.Error("served at two paths")
	}
	second, err := NewEmbedded(config)
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, second, after, rules, false)
	if list, err := second.List(t.Context()); err != nil || len(list) != 1 || list[0].Mountpoint != after {
		t.Errorf("the table has %v, %v", list, err)
	}
}
