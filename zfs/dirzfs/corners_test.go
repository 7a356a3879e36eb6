package dirzfs

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
)

// TestFirstReceiveThatFailsAtItsEnd: a first stream that was read whole, but could not be
// committed, leaves its target as it was, so that the next attempt can begin.
func TestFirstReceiveThatFailsAtItsEnd(t *testing.T) {
	dir := t.TempDir()
	h, err := Open(Config{Pools: []Pool{{Name: "q", Dir: dir}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close() //nolint:errcheck // the end of the test
	if err := h.Create(t.Context(), "q/s", nil, false); err != nil {
		t.Fatal(err)
	}
	if err := h.Mount(t.Context(), "q/s"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mnt/q/s/f"), pattern(300_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Snapshot(t.Context(), "q/s@1"); err != nil {
		t.Fatal(err)
	}
	receive := func(quota string) error {
		s, err := h.Send(t.Context(), zfs.SendRequest{Dataset: "q/s", To: "1"})
		if err != nil {
			t.Fatal(err)
		}
		err = h.Receive(t.Context(), zfs.ReceiveRequest{Target: "q/r@1", Resumable: true, Properties: map[string]string{"refquota": quota}}, s)
		return errors.Join(err, s.Close())
	}
	if err := receive("100000"); !errors.Is(err, zfs.ErrQuota) {
		t.Fatalf("%v", err)
	}
	if _, err := h.Dataset(t.Context(), "q/r"); !errors.Is(err, zfs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if err := receive("100000000"); err != nil {
		t.Fatalf("the next attempt: %v", err)
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// TestSymlinkWithAttributes: setting them would reach through the link, or fail for ever.
func TestSymlinkWithAttributes(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	entry := tree.Entry{Name: "s", Kind: tree.Symlink, Target: victim, Nodes: 1, Xattrs: []tree.Xattr{{Name: "user.x"}}}
	var root tree.Hash
	var objects [][]byte
	put := func(_ tree.Hash, b []byte) error { objects = append(objects, b); return nil }
	child, _, _, err := tree.PutDir([]tree.Entry{entry}, put)
	if err == nil {
		root, err = tree.PutRoot(tree.Entry{Kind: tree.Dir, Mode: 0o755, Child: child, Nodes: 2}, put)
	}
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(Config{Pools: []Pool{{Name: "q", Dir: t.TempDir()}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close() //nolint:errcheck // the end of the test
	err = h.Receive(t.Context(), zfs.ReceiveRequest{Target: "q/r@1"}, bytes.NewReader(handmade(t, root, nil, objects)))
	if !errors.Is(err, zfs.ErrStreamCorrupt) {
		t.Errorf("%v", err)
	}
	if info, err := os.Stat(victim); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
}
