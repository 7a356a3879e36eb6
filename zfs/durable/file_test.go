package durable_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/zfs/durable"

	"golang.org/x/sync/errgroup"
)

// alone is the content of a directory's one file.
func alone(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, entries[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	for _, content := range []string{"one", "", "three\n"} {
		if err := durable.Replace(file, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got := alone(t, dir); got != content {
			t.Errorf("%q, want %q", got, content)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

// TestReplaceIsANewFile: whoever has the old one open, or a second name for it, keeps it.
func TestReplaceIsANewFile(t *testing.T) {
	dir, aside := t.TempDir(), filepath.Join(t.TempDir(), "aside")
	file := filepath.Join(dir, "f")
	if err := durable.Replace(file, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, aside); err != nil {
		t.Fatal(err)
	}
	if err := durable.Replace(file, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if old, err := os.ReadFile(aside); err != nil || string(old) != "old" {
		t.Errorf("%q, %v: it was written in place", old, err)
	}
}

func TestReplaceLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	inTheWay := filepath.Join(dir, "d")
	if err := os.MkdirAll(filepath.Join(inTheWay, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Replace(inTheWay, []byte("x")); err == nil {
		t.Fatal("a directory was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if err := durable.Replace(filepath.Join(dir, "none", "f"), nil); !os.IsNotExist(err) {
		t.Errorf("no directory: %v", err)
	}
}

func TestReplaceAtOnce(t *testing.T) {
	dir := t.TempDir()
	var g errgroup.Group
	for i := range 32 {
		g.Go(func() error {
			return durable.Replace(filepath.Join(dir, "f"), []byte(strings.Repeat(string(rune('a'+i)), 10_000)))
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := alone(t, dir); got != strings.Repeat(got[:1], 10_000) {
		t.Error("two writers were mixed")
	}
}
