package dirzfs

import (
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

func moveMasked(t *testing.T, dir string) {
	t.Helper()
	from, parent := filepath.Join(dir, "from"), filepath.Join(dir, "elsewhere")
	to := filepath.Join(parent, "to")
	for _, d := range []string{from, parent} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(from, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := moveTree(from, to); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(to)
	if err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("moved directory: %v, %v", info, err)
	}
}
