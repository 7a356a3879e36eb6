package dirzfs

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/store"
	"tarn/zfs/dirzfs/internal/tree"
	"tarn/zfs/dirzfs/internal/wire"
)

// forge makes a snapshot p/evil@1 of any tree, as a hostile sender could.
func forge(t *testing.T, h *Host, entries []tree.Entry, chunks ...[]byte) {
	t.Helper()
	p := h.pools["p"]
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.Create(t.Context(), "p/evil", nil, false))
	b := p.store.NewBatch()
	for _, c := range chunks {
		must(b.Chunk(tree.Sum(c), c))
	}
	child, bytes, nodes, err := tree.PutDir(entries, b.Object)
	must(err)
	root, err := tree.PutRoot(tree.Entry{Kind: tree.Dir, Mode: 0o755, Child: child, Bytes: bytes, Nodes: nodes + 1}, b.Object)
	must(err)
	must(commitBatch(b, func(m meta) error {
		ds, err := m.dataset("p/evil")
		if err != nil {
			return err
		}
		txg, err := m.nextTXG()
		if err != nil {
			return err
		}
		s := &snapRec{Name: "1", GUID: newGUID(), TXG: txg, Root: root, Dataset: ds.GUID}
		return errors.Join(store.Ref(m.tx, root, store.Full), m.putSnapshot(s))
	}))
}

func receiveForged(t *testing.T, entries []tree.Entry, chunks ...[]byte) (h *Host, dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	h, err = Open(Config{Pools: []Pool{{Name: "p", Dir: dir}, {Name: "q", Dir: dir + "/q"}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	forge(t, h, entries, chunks...)
	s, err := h.Send(t.Context(), zfs.SendRequest{Dataset: "p/evil", To: "1"})
	if err != nil {
		t.Fatal(err)
	}
	err = h.Receive(t.Context(), zfs.ReceiveRequest{Target: "q/r@1"}, s)
	return h, dir, errors.Join(err, s.Close())
}

// TestLinkThroughSymlink: a hard link whose path leads out of the tree through a
// symlink of the same stream.
func TestLinkThroughSymlink(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, _, err := receiveForged(t, []tree.Entry{
		{Name: "s", Kind: tree.Symlink, Target: outside, Nodes: 1},
		{Name: "t", Kind: tree.File, Mode: 0o666, Link: "s/victim", Nodes: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Mount(t.Context(), "q/r"); err != nil {
		t.Fatal(err)
	}
	d, err := h.Dataset(t.Context(), "q/r")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(d.Mountpoint + "/t"); err != nil || len(b) > 0 {
		t.Errorf("the link reached outside: %q, %v", b, err)
	}
	if info, err := os.Stat(victim); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file outside was changed: %v, %v", info, err)
	}
}

// handmade frames a full stream from its parts.
func handmade(t *testing.T, root tree.Hash, chunks, objects [][]byte) []byte {
	t.Helper()
	var f wire.Framer
	all := f.Start()
	add := func(typ wire.Type, payload []byte) {
		b := make([]byte, len(payload)+wire.Overhead)
		copy(b[wire.HeaderSize:], payload)
		f.Seal(typ, b)
		all = append(all, b...)
	}
	addJSON := func(typ wire.Type, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		add(typ, b)
	}
	addJSON(wire.Head, streamHead{Dataset: "x/y", Snapshot: "1", To: 7, ToRoot: root})
	for _, c := range chunks {
		add(wire.Chunk, c)
	}
	for _, o := range objects {
		add(wire.Object, o)
	}
	addJSON(wire.End, streamEnd{Items: int64(len(chunks) + len(objects))})
	return all
}

// TestTreesThatDoNotFit: streams that are whole, but whose tree could not become
// files, are refused before there is a snapshot.
func TestTreesThatDoNotFit(t *testing.T) {
	dir := t.TempDir()
	h, err := Open(Config{Pools: []Pool{{Name: "q", Dir: dir}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close() //nolint:errcheck // the end of the test
	chunk := []byte("five!")
	file := tree.Entry{Name: "f", Kind: tree.File, Size: 5, Refs: []tree.Ref{{Hash: tree.Sum(chunk)}}, Bytes: 5, Nodes: 1}
	long := file
	long.Size = 7
	for name, c := range map[string]struct {
		file   tree.Entry
		chunks [][]byte
		drop   int // objects left out
		fits   bool
	}{
		"whole":          {file: file, chunks: [][]byte{chunk}, fits: true},
		"chunk length":   {file: long, chunks: [][]byte{chunk}},
		"chunk missing":  {file: file},
		"object missing": {file: file, chunks: [][]byte{chunk}, drop: 1},
		"root missing":   {file: file, chunks: [][]byte{chunk}, drop: 3},
	} {
		t.Run(name, func(t *testing.T) {
			var objects [][]byte
			put := func(_ tree.Hash, b []byte) error { objects = append(objects, b); return nil }
			child, bytes, nodes, _ := tree.PutDir([]tree.Entry{c.file}, put)
			root, _ := tree.PutRoot(tree.Entry{Kind: tree.Dir, Mode: 0o755, Child: child, Bytes: bytes, Nodes: nodes + 1}, put)
			if c.drop > 0 {
				objects = append(objects[:c.drop-1], objects[c.drop:]...)
			}
			err := h.Receive(t.Context(), zfs.ReceiveRequest{Target: "q/r@1"}, strings.NewReader(string(handmade(t, root, c.chunks, objects))))
			if c.fits {
				if err != nil {
					t.Fatal(err)
				}
				err = errors.Join(h.DestroySnapshots(t.Context(), "q/r", "1"), h.Destroy(t.Context(), "q/r"))
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, zfs.ErrStreamCorrupt) {
				t.Errorf("got %v", err)
			}
			if _, err := h.Dataset(t.Context(), "q/r"); !errors.Is(err, zfs.ErrNotExist) {
				t.Errorf("left behind: %v", err)
			}
			if err := h.Scrub(t.Context(), "q"); err != nil {
				t.Error(err)
			}
		})
	}
}
