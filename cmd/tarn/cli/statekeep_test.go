package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestRegularBackupsAreFew: the newest stay, the one just made in any case, and what is not
// a regular backup whatever its name looks like.
func TestRegularBackupsAreFew(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("", 7200))
	var names []string
	for i := range 5 {
		c := &stateSave{Into: dir, Keep: 3}
		if err := c.name(at.Add(time.Duration(i) * time.Hour)); err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dir, fmt.Sprintf("tarn-20260304T0%d0607Z.backup", 3+i)); c.File != want {
			t.Fatalf("named %s, want %s", c.File, want)
		}
		names = append(names, filepath.Base(c.File))
	}
	strange := []string{"by-hand.backup", "tarn-20260304T030607Z.backup.part", "tarn-2026.backup"}
	fill := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(append(slices.Clone(names), strange...)...)
	if err := os.Mkdir(filepath.Join(dir, "tarn-20200101T000000Z.backup"), 0o700); err != nil {
		t.Fatal(err)
	}
	left := func() []string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range entries {
			if e.Type().IsRegular() && !slices.Contains(strange, e.Name()) {
				out = append(out, e.Name())
			}
		}
		if len(entries) != len(out)+len(strange)+1 {
			t.Errorf("something else is gone: %v", entries)
		}
		return out
	}
	for _, step := range []struct {
		keep int
		made string
		want []string
	}{
		{0, names[4], names},
		{9, names[4], names},
		{3, names[4], names[2:]},
		{2, names[2], []string{names[2], names[4]}}, // the clock went back
		{1, names[4], names[4:]},
	} {
		c := &stateSave{Into: dir, File: filepath.Join(dir, step.made), Keep: step.keep}
		if err := c.retain(); err != nil || !slices.Equal(left(), step.want) {
			t.Errorf("keep %d: %v, %v left", step.keep, err, left())
		}
	}
	for _, c := range []*stateSave{{}, {File: "f", Into: dir}, {File: "f", Keep: 1}, {Into: dir, Keep: -1}} {
		if c.name(at) == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
