package dirzfs_test

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarn/zfs"
	"tarn/zfs/dirzfs"
)

func mounted(t *testing.T, h *dirzfs.Host, ds string) string {
	t.Helper()
	ok(t, h.Create(t.Context(), ds, map[string]string{zfs.PropCanMount: "on"}, true))
	d, err := h.Dataset(t.Context(), ds)
	ok(t, err)
	return d.Mountpoint
}

func class(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

// TestFence: another process takes the files away under a host that does not know,
// and everything goes on from there.
func TestFence(t *testing.T) {
	dir := t.TempDir()
	h := open(t, dirzfs.Pool{Name: "p", Dir: dir})
	mp := mounted(t, h, "p/x/y")
	ok(t, os.WriteFile(mp+"/f", []byte("1"), 0o600))
	ok(t, h.Snapshot(t.Context(), "p/x/y@1"))
	for range 2 {
		ok(t, dirzfs.Fence(dir, "p/x/y"))
	}
	if _, err := os.Stat(mp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reachable after the fence: %v", err)
	}
	d, err := h.Dataset(t.Context(), "p/x/y")
	ok(t, err)
	if d.Mounted || d.Written != 0 {
		t.Errorf("after the fence: %+v", d)
	}
	ok(t, h.Snapshot(t.Context(), "p/x/y@2"))
	ok(t, h.Unmount(t.Context(), "p/x/y", false))
	ok(t, h.Mount(t.Context(), "p/x/y"))
	if b, err := os.ReadFile(mp + "/f"); err != nil || string(b) != "1" {
		t.Errorf("after remount: %q, %v", b, err)
	}
	ok(t, dirzfs.Fence(dir, "p/never-mounted"))
	class(t, dirzfs.Fence(dir, "../x"), zfs.ErrInvalid)
}

// TestFenceKnowsWhatIsMounted: a fence file without a GUID, which a loss of power may leave,
// is no reason to say that all is well while the files are there.
func TestFenceKnowsWhatIsMounted(t *testing.T) {
	dir := t.TempDir()
	h := open(t, dirzfs.Pool{Name: "p", Dir: dir})
	mp := mounted(t, h, "p/x")
	file := filepath.Join(dir, "fence", "p%x")
	good, err := os.ReadFile(file)
	ok(t, err)
	for _, bad := range []string{"", "0", "12x", "-1", "../heads", "99999999999999999999"} {
		ok(t, os.WriteFile(file, []byte(bad), 0o600))
		class(t, dirzfs.Fence(dir, "p/x"), zfs.ErrInvalid)
	}
	ok(t, os.WriteFile(file, good, 0o600))
	ok(t, dirzfs.Fence(dir, "p/x"))
	ok(t, os.WriteFile(file, nil, 0o600))
	ok(t, dirzfs.Fence(dir, "p/x")) // nothing is there to be fenced
	ok(t, os.Link(file, dir+"/old"))
	ok(t, h.Mount(t.Context(), "p/x"))
	if old, err := os.ReadFile(dir + "/old"); err != nil || len(old) != 0 {
		t.Errorf("%q, %v: the fence file was written in place", old, err)
	}
	ok(t, dirzfs.Fence(dir, "p/x"))
	if _, err := os.Stat(mp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reachable after the fence: %v", err)
	}
}

// TestFencedHandleIsFound: after a fence an open handle still writes; Unmount says
// so, and with force the dataset is out of its reach.
func TestFencedHandleIsFound(t *testing.T) {
	dir := t.TempDir()
	h := open(t, dirzfs.Pool{Name: "p", Dir: dir})
	mp := mounted(t, h, "p/x")
	release, name := holder(t, mp+"/f")
	ok(t, dirzfs.Fence(dir, "p/x"))
	err := h.Unmount(t.Context(), "p/x", false)
	class(t, err, zfs.ErrBusy)
	if !strings.Contains(err.Error(), name) {
		t.Errorf("the holder %s is not named: %v", name, err)
	}
	if _, err := os.Stat(mp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused unmount undid the fence: %v", err)
	}
	ok(t, h.Unmount(t.Context(), "p/x", true))
	release()
	ok(t, h.Mount(t.Context(), "p/x"))
	if b, err := os.ReadFile(mp + "/f"); err != nil || len(b) != 0 {
		t.Errorf("the stale handle reached the dataset: %q, %v", b, err)
	}
	orphans, err := filepath.Glob(dir + "/orphans/*/f")
	ok(t, err)
	if len(orphans) != 1 {
		t.Fatalf("orphans %v", orphans)
	}
	if b, err := os.ReadFile(orphans[0]); err != nil || string(b) != "late\n" {
		t.Errorf("what the holder wrote is kept aside: %q, %v", b, err)
	}
}

// holder is a process that has path open; release makes it write and end.
func holder(t *testing.T, path string) (release func(), comm string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `exec 3>"$0"; echo ready; read line; echo late >&3`, path)
	in, err := cmd.StdinPipe()
	ok(t, err)
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	ok(t, err)
	return func() {
		_, err := io.WriteString(in, "go\n")
		ok(t, errors.Join(err, in.Close(), cmd.Wait()))
	}, "(sh)"
}

func TestMountsDoNotNest(t *testing.T) {
	h := open(t, dirzfs.Pool{Name: "p", Dir: t.TempDir()})
	mounted(t, h, "p/a/b")
	ok(t, h.Set(t.Context(), "p/a", map[string]string{zfs.PropCanMount: "on"}))
	class(t, h.Mount(t.Context(), "p/a"), zfs.ErrBusy)
	ok(t, h.Unmount(t.Context(), "p/a/b", false))
	ok(t, h.Mount(t.Context(), "p/a"))
	class(t, h.Mount(t.Context(), "p/a/b"), zfs.ErrBusy)
}

func TestOneProcessPerPool(t *testing.T) {
	pool := dirzfs.Pool{Name: "p", Dir: t.TempDir()}
	ok(t, dirzfs.CreatePool(pool.Dir, pool.Name))
	ok(t, dirzfs.CreatePool(pool.Dir, pool.Name))
	open(t, pool)
	err := dirzfs.CreatePool(pool.Dir, pool.Name)
	class(t, err, zfs.ErrBusy)
	if !strings.Contains(err.Error(), "another process") {
		t.Error(err)
	}
}

func TestForeignPoolDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	ok(t, dirzfs.CreatePool(dir, "one"))
	class(t, dirzfs.CreatePool(dir, "two"), zfs.ErrNotExist)
}

// TestHoldersBelowSymlink: the kernel names open files by their real path.
func TestHoldersBelowSymlink(t *testing.T) {
	link := t.TempDir() + "/link"
	ok(t, os.Symlink(t.TempDir(), link))
	h := open(t, dirzfs.Pool{Name: "p", Dir: link})
	mp := mounted(t, h, "p/x")
	release, _ := holder(t, mp+"/f")
	if err := h.Unmount(t.Context(), "p/x", false); !errors.Is(err, zfs.ErrBusy) {
		t.Errorf("unmounted with a file open: %v", err)
	}
	release()
	ok(t, h.Unmount(t.Context(), "p/x", false))
}
