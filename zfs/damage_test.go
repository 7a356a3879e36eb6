package zfs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// TestDamageIsFound writes over a file's blocks on the pool's only disk and scrubs.
func TestDamageIsFound(t *testing.T) {
	p := realzfs.NewPool(t, 128)
	h := open(t, p)
	if list, err := h.Damage(t.Context(), p.Name); err != nil || list != nil {
		t.Fatalf("a whole pool: %v, %v", list, err)
	}
	hurt := p.Name + "/hurt"
	for _, name := range []string{p.Name + "/well", hurt} {
		if err := h.Create(t.Context(), name, map[string]string{zfs.PropCanMount: "on", "compression": "off"}, false); err != nil {
			t.Fatal(err)
		}
	}
	d, err := h.Dataset(t.Context(), hurt)
	if err != nil {
		t.Fatal(err)
	}
	block := []byte(strings.Repeat("find me on the disk. ", 4096))
	if err := os.WriteFile(filepath.Join(d.Mountpoint, "file"), block, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Snapshot(t.Context(), hurt+"@1"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"export", p.Name}, {"import", "-d", filepath.Dir(p.File), p.Name}} {
		if err := realzfs.Zpool(args...); err != nil {
			t.Fatal(err)
		}
		if args[0] == "export" {
			spoil(t, p.File, block[:4096])
		}
	}
	if _, err := os.ReadFile(filepath.Join(d.Mountpoint, "file")); err == nil {
		t.Error("the spoiled file can be read")
	}
	list, err := h.Damage(t.Context(), p.Name)
	if err != nil || !slices.ContainsFunc(list, func(x zfs.Damage) bool { return x.Dataset == hurt && strings.HasSuffix(x.Place, "file") }) {
		t.Errorf("damage found: %v, %v", list, err)
	}
}

// spoil writes over every copy of a piece of data in a file.
func spoil(t *testing.T, path string, data []byte) {
	t.Helper()
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := strings.Index(string(all), string(data)); i >= 0; n++ {
		clear(all[i : i+512])
		next := strings.Index(string(all[i+512:]), string(data))
		if next < 0 {
			break
		}
		i += 512 + next
	}
	if err := os.WriteFile(path, all, 0o600); err != nil || n == 0 && !strings.Contains(string(all), "find me") {
		t.Fatalf("spoiled %d places, %v", n, err)
	}
}
