package export

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	tarnv1 "tarn/proto/tarn/v1"
)

// The kernel's client is the strictest that there is: it uses what libnfs does not.
func TestKernelNFSClientOfTheEmbeddedServer(t *testing.T) {
	if os.Getenv("TARN_VM") == "" {
		t.Skip("mounts: runs in the virtual machine of test/vm (make test-kernel)")
	}
	dir := t.TempDir()
	e, addr := startEmbedded(t, dir, "127.0.0.1:0", nil)
	data := filepath.Join(dir, "data")
	share(t, data)
	rules := exportsOf(shareFSID, rule("w", "127.0.0.1", rw))
	rules.Squash = tarnv1.Squash_SQUASH_NONE
	mustApply(t, e, data, rules, false)
	at := filepath.Join(dir, "m")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("vers=3,tcp,mountproto=tcp,nolock,port=%d,mountport=%d,soft,timeo=50,retrans=2,noac", addr.Port(), addr.Port())
	if _, err := command(t.Context(), "mount", "-t", "nfs", "-o", options, net.IPv4(127, 0, 0, 1).String()+":"+data, at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := command(context.Background(), "umount", "-f", "-l", at); err != nil {
			t.Log(err)
		}
	})
	checkTrees(t, at, data)
	checkOpenFiles(t, at, data)

	t.Log("a removed rule ends what is open")
	f, err := os.OpenFile(filepath.Join(at, "hello"), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mustApply(t, e, data, exportsOf(shareFSID, rule("w", "127.0.0.2", rw)), false)
	if got, err := readOpen(f); err == nil {
		t.Errorf("read %q without a rule", got)
	}
	mustApply(t, e, data, rules, true)
	if got, err := readOpen(f); err != nil || got != "hello\n" {
		t.Errorf("with a rule again: %q, %v", got, err)
	}
	if err := writeNow(filepath.Join(at, "no"), "no"); !refused(err) {
		t.Errorf("written read-only: %v", err)
	}
}

// checkTrees makes, lists, changes and removes many files as a client.
func checkTrees(t *testing.T, at, data string) {
	t.Helper()
	const files = 150
	for i := range files {
		name := filepath.Join(at, fmt.Sprintf("d%d", i%3), fmt.Sprintf("file-%03d-%s", i, strings.Repeat("\u00fc", i%40)))
		if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(f, "content %d", i); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640); !os.IsExist(err) {
			t.Errorf("created twice: %v", err)
		}
	}
	seen := 0
	for i := range 3 {
		entries, err := os.ReadDir(filepath.Join(at, fmt.Sprintf("d%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			got, err := os.ReadFile(filepath.Join(data, fmt.Sprintf("d%d", i), entry.Name()))
			if err != nil || !strings.HasPrefix(string(got), "content ") {
				t.Errorf("%s on the server is %q, %v", entry.Name(), got, err)
			}
			info, err := entry.Info()
			if err != nil || info.Mode() != 0o640 {
				t.Errorf("%s is %v, %v", entry.Name(), info, err)
			}
			seen++
		}
	}
	if seen != files {
		t.Errorf("%d of %d files are listed", seen, files)
	}
	if err := os.Rename(filepath.Join(at, "d0"), filepath.Join(at, "d1", "inner")); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(at, "d1")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(data, "d1")); !os.IsNotExist(err) {
		t.Errorf("after removal: %v", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil || st.Blocks == 0 {
		t.Errorf("size %+v, %v", st, err)
	}
}

// checkOpenFiles is what a client does with a file, while others do something to it.
func checkOpenFiles(t *testing.T, at, data string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(at, "f"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	step := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = f.WriteString("one")
	step("write", err)
	step("sync", f.Sync())
	step("rename on the server", os.Rename(filepath.Join(data, "f"), filepath.Join(data, "g")))
	_, err = f.WriteString("two")
	step("write after the rename", err)
	step("sync", f.Sync())
	if got, err := os.ReadFile(filepath.Join(data, "g")); err != nil || string(got) != "onetwo" {
		t.Errorf("on the server %q, %v", got, err)
	}
	step("truncate", f.Truncate(2))
	step("mode", f.Chmod(0o604))
	when := time.Unix(1_000_000_000, 123_000_000)
	step("times", os.Chtimes(filepath.Join(at, "g"), when, when))
	step("link", os.Link(filepath.Join(at, "g"), filepath.Join(at, "h")))
	step("symlink", os.Symlink("/etc/passwd", filepath.Join(at, "l")))
	info, err := os.Stat(filepath.Join(data, "h"))
	if err != nil || info.Size() != 2 || info.Mode() != 0o604 || !info.ModTime().Equal(when) {
		t.Errorf("on the server %v, %v", info, err)
	}
	if target, err := os.Readlink(filepath.Join(at, "l")); err != nil || target != "/etc/passwd" {
		t.Errorf("link to %q, %v", target, err)
	}
	// A file that is removed while it is open: the client keeps it under another name.
	kept, err := os.Create(filepath.Join(at, "kept"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	_, err = kept.WriteString("on")
	step("write", err)
	step("remove", os.Remove(filepath.Join(at, "kept")))
	if got, err := readOpenAt(kept); err != nil || got != "on" {
		t.Errorf("removed file reads %q, %v", got, err)
	}
	// One that goes on the server is stale, never another file.
	step("remove on the server", os.Remove(filepath.Join(data, "g")))
	step("remove on the server", os.Remove(filepath.Join(data, "h")))
	step("make another", os.WriteFile(filepath.Join(data, "g"), []byte("another"), 0o600))
	if got, err := readOpenAt(f); !errors.Is(err, unix.ESTALE) {
		t.Errorf("file that is gone reads %q, %v", got, err)
	}
}

func readOpenAt(f *os.File) (string, error) {
	buffer := make([]byte, 2)
	_, err := f.ReadAt(buffer, 0)
	return string(buffer), err
}
