package identity

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
)

var errStopped = errors.New("stopped")

// stopAt lets a number of steps pass and stops at the next.
func stopAt(n int) func(string) error {
	return func(string) error {
		if n--; n < 0 {
			return errStopped
		}
		return nil
	}
}

// triple is what a node has of an authority.
type triple struct{ ca, cert, key []byte }

func issue(t *testing.T, ca *CA, id string) triple {
	t.Helper()
	cert, key, err := ca.IssueKey(Subject{Role: RoleAgent, ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return triple{ca.CertPEM(), cert, key}
}

func serialOf(t *testing.T, cert []byte) string {
	t.Helper()
	parsed, err := parseCertPEM(cert)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.SerialNumber.Text(16)
}

// wantEither demands that dir holds one of two whole identities.
func wantEither(t *testing.T, dir string, a, b triple) {
	t.Helper()
	m, err := LoadMaterial(dir)
	if err != nil {
		t.Fatalf("locked out: %v", err)
	}
	if got := m.Identity().Serial; got != serialOf(t, a.cert) && got != serialOf(t, b.cert) {
		t.Fatalf("certificate %s is neither the old nor the new", got)
	}
}

// changes are a renewal, and a certificate of another cluster.
func changes(t *testing.T) map[string][2]triple {
	own, other, id := newTestCA(t, "c"), newTestCA(t, "other"), uuid.NewString()
	return map[string][2]triple{
		"renewal":         {issue(t, own, id), issue(t, own, id)},
		"another cluster": {issue(t, own, id), issue(t, other, id)},
	}
}

// TestSaveStoppedAtEachStep stops a change before each step. The node can start, and the
// next start's Settle leaves three files that fit together and nothing else.
func TestSaveStoppedAtEachStep(t *testing.T) {
	for name, change := range changes(t) {
		was, next := change[0], change[1]
		stops := 0
		for done := false; !done; stops++ {
			dir := t.TempDir()
			if err := SaveNode(dir, was.ca, was.cert, was.key); err != nil {
				t.Fatal(err)
			}
			err := disk{dir: dir, before: stopAt(stops)}.saveNode(next.ca, next.cert, next.key)
			if done = err == nil; err != nil && !errors.Is(err, errStopped) {
				t.Fatal(err)
			}
			wantEither(t, dir, was, next)
			wantSettled(t, dir, was, next)
		}
		if stops < 7 {
			t.Errorf("%s: %d steps only", name, stops)
		}
	}
}

func wantSettled(t *testing.T, dir string, was, next triple) {
	t.Helper()
	for range 2 {
		if err := Settle(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := loadFiles(dir); err != nil {
		t.Fatalf("after Settle: %v", err)
	}
	wantEither(t, dir, was, next)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Fatalf("after Settle: %v, %v", entries, err)
	}
}

// TestPowerLostBetweenSyncs leaves any of the three files old or new, as a disk may that was
// told to write them and not yet asked whether it has.
func TestPowerLostBetweenSyncs(t *testing.T) {
	for name, change := range changes(t) {
		for mix := range 8 {
			dir := t.TempDir()
			// One that is stopped after NextFile is on the disk.
			err := disk{dir: dir, before: stopAt(2)}.saveNode(change[1].ca, change[1].cert, change[1].key)
			if !errors.Is(err, errStopped) {
				t.Fatal(err)
			}
			for i, f := range []string{CAFile, CertFile, NodeKeyFile} {
				half := change[mix>>i&1]
				data := [][]byte{half.ca, half.cert, half.key}[i]
				if err := os.WriteFile(filepath.Join(dir, f), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%s, mix %03b", name, mix)
			wantEither(t, dir, change[0], change[1])
			wantSettled(t, dir, change[0], change[1])
		}
	}
}

// TestFirstSaveStopped has no older identity to fall back to: there is none, or the new one.
func TestFirstSaveStopped(t *testing.T) {
	next := issue(t, newTestCA(t, "c"), uuid.NewString())
	for stop := range 7 {
		dir := t.TempDir()
		if err := (disk{dir: dir, before: stopAt(stop)}).saveNode(next.ca, next.cert, next.key); !errors.Is(err, errStopped) && stop < 6 {
			t.Fatal(err)
		}
		_, err := LoadMaterial(dir)
		if stop == 0 && !errors.Is(err, os.ErrNotExist) || stop > 0 && err != nil {
			t.Errorf("stopped at %d: %v", stop, err)
		}
	}
}

// TestDamagedNextIsSaid wants both reasons, and no file touched.
func TestDamagedNextIsSaid(t *testing.T) {
	change := changes(t)["renewal"]
	dir := t.TempDir()
	if err := SaveNode(dir, change[0].ca, change[0].cert, change[0].key); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{NodeKeyFile: change[1].key, NextFile: change[1].key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := LoadMaterial(dir); err == nil {
		t.Error("loaded")
	}
	if err := Settle(dir); err == nil {
		t.Error("settled")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("%v, %v", entries, err)
	}
}
