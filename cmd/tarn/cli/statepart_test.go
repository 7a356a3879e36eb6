package cli

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestUnfinishedBackupsAreRemoved: only those of a process that is gone, and of regular
// backups; in its place a new one is written.
func TestUnfinishedBackupsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{
		"tarn-20260304T030607Z.backup.part", "tarn-20260304T040607Z.backup.part", // killed
		"tarn-20260304T030607Z.backup", "by-hand.backup.part", "tarn-2026.backup.part", "tarn-20260304T030607Z.part", "notes.part",
		"tarn-20260304T030607Z.backup.part.part",
	} {
		if err := os.WriteFile(at(name), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(at("by-hand.backup.part"), at("tarn-20260304T050607Z.backup.part")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("tarn-20260304T060607Z.backup.part"), 0o700); err != nil {
		t.Fatal(err)
	}
	writing := &stateSave{Into: dir, File: at("tarn-20260304T070607Z.backup")}
	part, err := writing.openPart()
	if err != nil {
		t.Fatal(err)
	}
	next := &stateSave{Into: dir, File: at("tarn-20260304T040607Z.backup")}
	if err := next.sweepParts(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"by-hand.backup.part", "notes.part", "tarn-2026.backup.part", "tarn-20260304T030607Z.backup", "tarn-20260304T030607Z.backup.part.part",
		"tarn-20260304T030607Z.part", "tarn-20260304T050607Z.backup.part", "tarn-20260304T060607Z.backup.part", "tarn-20260304T070607Z.backup.part",
	}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
	if _, err := writing.openPart(); err == nil {
		t.Error("two write one file")
	}
	if err := part.Close(); err != nil {
		t.Fatal(err)
	}
	if err := next.sweepParts(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(part.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what nobody writes any more: %v", err)
	}
	// Without --into nothing is looked for: the directory is not the program's.
	if err := (&stateSave{File: at("x")}).sweepParts(); err != nil {
		t.Fatal(err)
	}
}

// TestKilledBackupIsNobodys: the lock ends with the process, whichever way it ends.
func TestKilledBackupIsNobodys(t *testing.T) {
	flock, err := exec.LookPath("flock")
	if err != nil {
		t.Fatal(err) // util-linux is on every machine that has a shell
	}
	c := &stateSave{Into: t.TempDir()}
	c.File = filepath.Join(c.Into, "tarn-20260304T030607Z.backup")
	path := c.File + partSuffix
	holder := exec.CommandContext(t.Context(), flock, "--no-fork", path, "cat")
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	// It answers when it has the lock.
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := c.sweepParts(); err != nil || !slices.Equal(names(t, c.Into), []string{filepath.Base(path)}) {
		t.Errorf("while it is written: %v, left are %v", err, names(t, c.Into))
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait() // it was killed
	if err := c.sweepParts(); err != nil || len(names(t, c.Into)) != 0 {
		t.Errorf("after it was killed: %v, left are %v", err, names(t, c.Into))
	}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
