package agent

import (
	"os"
	"path/filepath"
	"testing"

	"tarn/agent/export"
)

// TestDeadmanFindsAShareThatWasTakenOver: its mountpoint is where it was before, and says
// nothing of the replica.
func TestDeadmanFindsAShareThatWasTakenOver(t *testing.T) {
	dir := t.TempDir()
	table := filepath.Join(dir, "exports-kernel.json")
	etab := filepath.Join(dir, "etab")
	called := filepath.Join(dir, "called")
	exportfs := filepath.Join(dir, "exportfs")
	for file, text := range map[string]string{
		table: `{"version":1,"exports":[{"mountpoint":"/srv/home","source":"tank/tarn/r1","clients":[]},{"mountpoint":"/tank/tarn/r2","clients":[]},{"mountpoint":"/srv/r","source":"tank/tarn/r3","clients":[]}]}`,
		etab:  "/srv/home\t10.0.0.1(rw)\n/tank/tarn/r2\t10.0.0.1(rw)\n/srv/r\t10.0.0.1(rw)\n",
		filepath.Join(dir, "exporter.json"): `{"server":"kernel","table":"` + table + `","kernel":{"Table":"` + table + `","Host":"h","Dir":"` + dir +
			`","Command":["` + exportfs + `"],"Etab":"` + etab + `","Proc":"` + dir + `","Caches":"` + dir + `"}}`,
		exportfs: "#!/bin/sh\necho \"$@\" >>" + called + "\n: >" + etab + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := sever(export.NewSeverer(dir), "tank/tarn/r1"); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(called); err != nil || string(got) != "-u 10.0.0.1:/srv/home\n" {
		t.Errorf("exportfs was called with %q, %v", got, err)
	}
}
