package store

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"
)

// TestReadsOfManyPacks: more packs than descriptors are kept for, and readers of all of them.
// None is closed under somebody who reads it.
func TestReadsOfManyPacks(t *testing.T) {
	dir, sizes := t.TempDir(), map[uint32]int64{}
	for id := uint32(1); id <= 2*maxOpen; id++ {
		sizes[id] = 1
		if err := os.WriteFile(filepath.Join(dir, packName(id)), []byte{byte(id)}, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := openPacks(dir, sizes)
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for range 16 {
		g.Go(func() error {
			buf := make([]byte, 1)
			for range 5000 {
				id := 1 + rand.Uint32N(2*maxOpen)
				if err := p.readAt(loc{pack: id, len: 1}, buf); err != nil {
					return err
				}
				if buf[0] != byte(id) {
					t.Errorf("pack %d holds %d", id, buf[0])
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
}
