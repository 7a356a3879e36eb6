package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// TestHostIDAfterACrash: an older version made the file before it wrote it. An empty one
// names no other host, and must not keep this one out.
func TestHostIDAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), hostIDFile)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := checkHostID(path, "a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkHostID(path, "b"); err == nil {
		t.Error("another host's data directory was taken")
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}
