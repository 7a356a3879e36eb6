package dirzfs

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestMoveMaskedTreeAsOrdinaryUser moves a directory without its write bit, as a
// read-only copy has it. Root is not bound by permission bits, so as root the test
// runs itself again as nobody.
func TestMoveMaskedTreeAsOrdinaryUser(t *testing.T) {
	if dir := os.Getenv("TARN_TEST_MASKED_DIR"); dir != "" {
		moveMasked(t, dir)
		return
	}
	if os.Getuid() != 0 {
		moveMasked(t, t.TempDir())
		return
	}
	dir, err := os.MkdirTemp("", "masked-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const nobody = 65534
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "self.test")
	copyProgram(t, self)
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestMoveMaskedTreeAsOrdinaryUser$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TARN_TEST_MASKED_DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
}

func copyProgram(t *testing.T, to string) {
	t.Helper()
	from, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

// moveMasked mounts and unmounts a directory without its write bit: it arrives
// without, and nothing stays on the way.
func moveMasked(t *testing.T, dir string) {
	t.Helper()
	head, parent := filepath.Join(dir, "head"), filepath.Join(dir, "elsewhere")
	mountpoint := filepath.Join(parent, "mountpoint")
	for _, d := range []string{head, parent} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(head, 0o555); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		expectMoved(t, moveIn(head, mountpoint), head, mountpoint)
		expectMoved(t, moveOut(mountpoint, head), mountpoint, head)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("left on the way: %v, %v", left, err)
	}
}

func expectMoved(t *testing.T, err error, from, to string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("moved directory: %v, %v", info, err)
	}
	if isDir(from) {
		t.Errorf("%s is still there", from)
	}
}

// TestCutMoveIsFinished leaves a dataset's files between head and mountpoint, as a
// crash of an ordinary user's process can, and opens the pool again.
func TestCutMoveIsFinished(t *testing.T) {
	dir := t.TempDir()
	open := func() *Host {
		h, err := Open(Config{Pools: []Pool{{Name: "tank", Dir: dir}}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h := open()
	check(h.Create(t.Context(), "tank/a", nil, false))
	check(h.Mount(t.Context(), "tank/a"))
	ds, err := h.Dataset(t.Context(), "tank/a")
	check(err)
	check(os.WriteFile(filepath.Join(ds.Mountpoint, "file"), []byte("x"), 0o644))
	check(h.Close())
	check(os.Rename(ds.Mountpoint, moving(ds.Mountpoint)))
	h = open()
	check(h.Mount(t.Context(), "tank/a"))
	if data, err := os.ReadFile(filepath.Join(ds.Mountpoint, "file")); err != nil || string(data) != "x" {
		t.Errorf("after the cut: %q, %v", data, err)
	}
	check(h.Close())
}
