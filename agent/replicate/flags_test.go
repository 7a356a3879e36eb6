package replicate

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// TestLargeBlocksOnZFS moves a share with blocks of 1 MiB to and fro, changing a few
// bytes of a large file under each owner. Streams of changing flags would lose the rest
// of that file or be refused (zfs replication 3.1).
func TestLargeBlocksOnZFS(t *testing.T) { onReal(t, largeBlocksMoveBothWays) }

func largeBlocksMoveBothWays(t *testing.T, on maker) {
	c, a, b := pairOn(t, on)
	if realzfs.Kernel() {
		c.must(realzfs.Zfs("set", "recordsize=1M", a.dataset()))
	}
	want := make([]byte, 4<<20)
	_, _ = rand.Read(want)
	for epoch := uint64(1); epoch < 4; epoch++ {
		copy(want[epoch<<20:], "changed under another owner")
		c.must(a.writeFile("large", want, int64(epoch)<<20))
		c.activate(b, a, epoch+1, c.demote(a, b, epoch))
		c.until("the large file is whole", func() bool { return bytes.Equal(b.readFile("large"), want) })
		c.until("old active follows", inSync(b, a))
		a, b = b, a
	}
	kept := zfs.StreamFlags{}
	if realzfs.Kernel() {
		kept = zfs.StreamFlags{LargeBlocks: true, Compressed: true}
	}
	for _, h := range c.hosts {
		ds, _, _ := h.fs.Peek(h.dataset())
		if got := local(ds, markFlags); got != kept.String() {
			t.Errorf("pool %s keeps the flags %q, want %q", h.pool, got, kept)
		}
	}
}

// writeFile makes a file, or changes a few bytes of it.
func (h *testHost) writeFile(name string, data []byte, changed int64) error {
	ds, _, _ := h.fs.Peek(h.dataset())
	path := filepath.Join(ds.Mountpoint, name)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data[changed:changed+100], changed)
	return errors.Join(err, f.Close())
}

// readFile is what a client of the host sees; nil for none.
func (h *testHost) readFile(name string) []byte {
	ds, err := h.fs.Dataset(context.Background(), h.dataset())
	if err != nil || !ds.Mounted {
		return nil
	}
	data, _ := os.ReadFile(filepath.Join(ds.Mountpoint, name))
	return data
}
