package dirzfs

import (
	"errors"
	"os"
	"path"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
)

// deepest makes directories in each other until their path has more than 32 KiB, longer than
// any key of a table, with a file of two names at the end, and returns that file's directory.
func deepest(t *testing.T, top string) (*os.Root, string) {
	t.Helper()
	r, err := os.OpenRoot(top)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	at := "."
	for range 140 {
		at = path.Join(at, strings.Repeat("d", 240))
	}
	if err := r.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := r.Create(path.Join(at, "f"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("deep")
	err = errors.Join(err, f.Close(), r.Chmod(path.Join(at, "f"), 0o640), r.Link(path.Join(at, "f"), path.Join(at, "g")))
	if err != nil {
		t.Fatal(err)
	}
	return r, at
}

func TestLinkOfAVeryLongPath(t *testing.T) {
	w := &walker{links: map[uint64]string{5: strings.Repeat("d", tree.MaxPath), 6: strings.Repeat("d", tree.MaxPath+1)}}
	for ino, want := range map[uint64]string{5: w.links[5], 6: ""} {
		if got := w.link(&dir{rel: "x"}, "n", tree.File, &unix.Stat_t{Ino: ino, Nlink: 2}); got != want {
			t.Errorf("inode %d: a link of %d bytes", ino, len(got))
		}
	}
}

// TestVeryLongPaths: whoever may write to a share makes a path as long as it likes. It is
// replicated, and keeps neither a snapshot nor a demotion from happening.
func TestVeryLongPaths(t *testing.T) {
	dir := t.TempDir()
	h := sparsePool(t, dir)
	r, at := deepest(t, dir+"/mnt/q/s")
	for _, name := range []string{"1", "2"} {
		if err := h.Snapshot(t.Context(), "q/s@"+name); err != nil {
			t.Fatal(err)
		}
	}
	copyTo(t, h, "", "1")
	copyTo(t, h, "@1", "2")
	if err := h.Mount(t.Context(), "q/r"); err != nil {
		t.Fatal(err)
	}
	copied, err := os.OpenRoot(dir + "/mnt/q/r")
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close() //nolint:errcheck // read only
	for _, name := range []string{"f", "g"} {
		if b, err := copied.ReadFile(path.Join(at, name)); err != nil || string(b) != "deep" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, c := range []struct {
		readonly string
		mode     os.FileMode
	}{{"on", 0o440}, {"off", 0o640}} {
		if err := h.Set(t.Context(), "q/s", map[string]string{zfs.PropReadOnly: c.readonly}); err != nil {
			t.Fatal(err)
		}
		if info, err := r.Stat(path.Join(at, "f")); err != nil || info.Mode() != c.mode {
			t.Errorf("readonly=%s: %v, %v", c.readonly, info, err)
		}
	}
	if err := h.Scrub(t.Context(), "q"); err != nil {
		t.Error(err)
	}
}
