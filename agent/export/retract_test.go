package export

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// restedGanesha is an exporter whose Ganesha does not run, with the table and the files of
// what it served before the host was booted.
func restedGanesha(t *testing.T, mounts bool, mountpoints ...string) *Ganesha {
	t.Helper()
	dir := shortDir(t)
	g, err := NewGanesha(GaneshaConfig{
		Table: filepath.Join(dir, "exports.json"), Host: "127.0.0.1", Dir: filepath.Join(dir, "g"), Listen: freePort(t, "127.0.0.1"), Mounts: mounts,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.runner.write(); err != nil {
		t.Fatal(err)
	}
	for _, m := range mountpoints {
		if err := errors.Join(g.table.put(Export{Mountpoint: m, FSID: shareFSID, Squash: SquashRoot, Clients: []Client{}}), os.WriteFile(g.where.file(m), []byte("EXPORT {}\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func hasFile(t *testing.T, file string) bool {
	t.Helper()
	_, err := os.Stat(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// TestNothingIsServedBelowAMountpoint: before a Ganesha is started after a boot, the
// exports of what is not mounted yet are taken out of its configuration.
func TestNothingIsServedBelowAMountpoint(t *testing.T) {
	below := t.TempDir()
	g := restedGanesha(t, true, aMount, below)
	foreign, lost := filepath.Join(g.where.Exports, "site.conf"), filepath.Join(g.where.Exports, "tarn-0123456789abcdef.conf")
	for _, file := range []string{foreign, lost} {
		if err := os.WriteFile(file, []byte("EXPORT {}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := g.retract(t.Context()); err != nil {
			t.Fatal(err)
		}
		if hasFile(t, g.where.file(below)) || hasFile(t, lost) || !hasFile(t, g.where.file(aMount)) || !hasFile(t, foreign) {
			t.Error("files of the wrong exports are left")
		}
		if all, _ := g.List(t.Context()); len(all) != 1 || all[0].Mountpoint != aMount {
			t.Errorf("the table has %v", all)
		}
	}
	if _, _, err := g.Apply(t.Context(), below, &tarnv1.Exports{Fsid: shareFSID}, false); !errors.Is(err, errNotMounted) {
		t.Errorf("a directory below a mountpoint is exported: %v", err)
	}
	directories := restedGanesha(t, false, below)
	if err := directories.retract(t.Context()); err != nil || !hasFile(t, directories.where.file(below)) {
		t.Errorf("where shares are directories one was taken away: %v", err)
	}
}

// TestRulesOfAGaneshaThatIsDown: its start brings nothing back that was taken away while it
// could not be told.
func TestRulesOfAGaneshaThatIsDown(t *testing.T) {
	g := restedGanesha(t, true, aMount)
	if _, _, err := g.Apply(t.Context(), aMount, exportsOf(shareFSID), false); err == nil || !hasFile(t, g.where.file(aMount)) {
		t.Errorf("the same rules: %v", err)
	}
	if _, _, err := g.Apply(t.Context(), aMount, exportsOf(shareFSID), true); err == nil || hasFile(t, g.where.file(aMount)) {
		t.Errorf("a file that says more than the rules is left, %v", err)
	}
}

// TestGaneshaIsKnownBeforeItServes: whoever takes an export away while it starts finds it.
func TestGaneshaIsKnownBeforeItServes(t *testing.T) {
	g := restedGanesha(t, true)
	dir := g.runner.layout.dir
	script := "#!/bin/sh\ncat " + g.runner.layout.pid() + " >" + dir + "/known; echo $$ >" + dir + "/is\n"
	if err := os.WriteFile(filepath.Join(dir, "server"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		_ = os.Remove(g.runner.layout.pid())
		_ = os.Remove(filepath.Join(dir, "is"))
		if err := g.runner.spawn([]string{filepath.Join(dir, "server")}, nil, g.runner.layout.pid()); err != nil {
			t.Fatal(err)
		}
		until(t, 10*time.Second, func() error {
			is, err := os.ReadFile(filepath.Join(dir, "is")) // first: it is written last
			known, _ := os.ReadFile(filepath.Join(dir, "known"))
			if err == nil && strings.TrimSpace(string(is)) != "" && strings.TrimSpace(string(known)) != strings.TrimSpace(string(is)) {
				t.Fatalf("it is process %s, known as %q", is, known)
			}
			if err == nil && len(is) == 0 {
				err = errors.New("not written yet")
			}
			return err
		})
	}
}

// checkBoot: a Ganesha that was not alive is started with files whose file systems are
// not mounted yet.
func checkBoot(t *testing.T, g *Ganesha, stop func(), client nfsClient, dataset, mountpoint string) {
	t.Helper()
	rules := exportsOf(shareFSID, rule("w", "127.0.0.5", rw))
	mustApply(t, g, mountpoint, rules, false)
	client.mustRead(mountpoint+"/hello", "hello\n")
	stop()
	zfsCommand(t, "zfs", "unmount", dataset)
	if err := os.WriteFile(filepath.Join(mountpoint, "hello"), []byte("below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	runExporter(t, g)
	until(t, 30*time.Second, func() error { return g.runner.answers(t.Context()) })
	client.mustNotRead(mountpoint + "/hello")
	if _, _, err := g.Apply(t.Context(), mountpoint, rules, false); !errors.Is(err, errNotMounted) {
		t.Errorf("a directory below a mountpoint is exported: %v", err)
	}
	if err := os.Remove(filepath.Join(mountpoint, "hello")); err != nil {
		t.Fatal(err)
	}
	zfsCommand(t, "zfs", "mount", dataset)
	mustApply(t, g, mountpoint, rules, false)
	client.mustRead(mountpoint+"/hello", "hello\n")
	if all, _ := g.List(t.Context()); len(all) != 1 || all[0].Source != dataset {
		t.Errorf("the table has %v", all)
	}
	mustRemove(t, g, mountpoint)
}

// TestACrashLeavesNoFileThatGaneshaReads: it reads every file of its directory.
func TestACrashLeavesNoFileThatGaneshaReads(t *testing.T) {
	for _, mounts := range []bool{true, false} {
		g := restedGanesha(t, mounts, aMount)
		before := g.where.file(aMount)
		left := filepath.Join(g.where.Exports, "."+filepath.Base(before)+".123")
		if err := os.WriteFile(left, []byte("EXPORT {"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := g.retract(t.Context()); err != nil || hasFile(t, left) || !hasFile(t, before) {
			t.Errorf("mounts %v: %v", mounts, err)
		}
		// The first form is nowhere but in a directory that can be on the same file system.
		aside := filepath.Join(g.where.Exports, "tarn.new")
		if err := os.WriteFile(aside, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := g.where.write(before, []byte("x")); err == nil {
			t.Error("the first form is in the directory itself")
		}
		if err := os.Remove(aside); err != nil {
			t.Fatal(err)
		}
		if err := g.where.write(before, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(before); string(got) != "x" {
			t.Errorf("%q, %v", got, err)
		}
	}
}
