package filetree

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDifferenceSeesEveryKindOfChange(t *testing.T) {
	changes := map[string]func(dir string) error{
		"content":  func(d string) error { return os.WriteFile(filepath.Join(d, "notes.txt"), []byte("x"), 0o644) },
		"missing":  func(d string) error { return os.Remove(filepath.Join(d, "many/file-07")) },
		"too much": func(d string) error { return os.WriteFile(filepath.Join(d, "more"), nil, 0o644) },
		"link":     func(d string) error { return relink(filepath.Join(d, "link")) },
		"kind":     func(d string) error { return swapForDir(filepath.Join(d, "empty")) },
		"one bit":  func(d string) error { return flip(filepath.Join(d, "big.bin")) },
	}
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if err := New(1).Fill(dir); err != nil {
			t.Fatal(err)
		}
	}
	if diff, n, err := Difference(a, b); err != nil || len(diff) != 0 || n < 50 {
		t.Fatalf("equal trees: %v, %d entries, %v", diff, n, err)
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			c := t.TempDir()
			if err := New(1).Fill(c); err != nil {
				t.Fatal(err)
			}
			if err := change(c); err != nil {
				t.Fatal(err)
			}
			if diff, _, err := Difference(a, c); err != nil || len(diff) != 1 {
				t.Errorf("found %v, %v", diff, err)
			}
		})
	}
}

func relink(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Symlink("elsewhere", path)
}

func swapForDir(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o755)
}

func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o644)
}
