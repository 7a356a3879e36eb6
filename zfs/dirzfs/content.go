package dirzfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
)

// parallelChunks is how many chunks of a large file one goroutine reads in a row.
const parallelChunks = 16

// chunkBuffers lends buffers of one chunk. Each pool of work makes its own.
func newBuffers() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, tree.ChunkSize); return &b }}
}

// content reads a file's chunks into the entry.
func (w *walker) content(ctx context.Context, d *dir, name string, e *tree.Entry) error {
	f, err := d.open(name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return os.ErrNotExist // replaced since it was listed
	}
	if st.Size > tree.MaxFile {
		return fmt.Errorf("%w: %s has %d bytes, holes included, and more than %d cannot be replicated: make it smaller, or remove it",
			zfs.ErrUnsupported, d.path(name), st.Size, int64(tree.MaxFile))
	}
	if err := w.cleanPages(f); err != nil {
		return err
	}
	e.Size = st.Size
	r := chunkReader{w: w, f: f, size: st.Size, sparse: st.Blocks*512 < st.Size, buffers: newBuffers()}
	return e.Fill(w.putNew, func(first int, refs []tree.Ref) (hole bool, err error) { return r.all(ctx, refs, first) })
}

// cleanPages writes a file's dirty pages out before they are read: a store through a
// mapping changes the ctime only when its page was clean, and would be seen by no later
// walk. Nobody maps files that are unmounted and without holders.
func (w *walker) cleanPages(f *os.File) error {
	if w.p.quiet.isFree(w.ds.GUID) {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return err
	}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC { // the pages are those of a file below it, which only this reaches
		return unix.Fdatasync(int(f.Fd()))
	}
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	err := unix.SyncFileRange(int(f.Fd()), 0, 0, all)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		return f.Sync() // a file system without it
	}
	return err
}

// chunkReader reads one file.
type chunkReader struct {
	w       *walker
	f       *os.File
	size    int64
	sparse  bool
	buffers *sync.Pool
}

// all reads one run of chunks, unless it is a hole.
func (r *chunkReader) all(ctx context.Context, refs []tree.Ref, first int) (hole bool, err error) {
	if len(refs) <= parallelChunks {
		return false, r.some(ctx, refs, first)
	}
	if r.hole(first, len(refs)) {
		return true, ctx.Err()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for at := 0; at < len(refs); at += parallelChunks {
		g.Go(func() error {
			return r.some(ctx, refs[at:min(at+parallelChunks, len(refs))], first+at)
		})
	}
	return false, g.Wait()
}

func (r *chunkReader) some(ctx context.Context, refs []tree.Ref, first int) error {
	if len(refs) == 0 {
		return nil
	}
	buf := r.buffers.Get().(*[]byte)
	defer r.buffers.Put(buf)
	for i := range refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.hole(first+i, 1) {
			continue
		}
		if err := r.one(&refs[i], first+i, *buf); err != nil {
			return err
		}
	}
	return nil
}

// hole asks the file system of a sparse file whether n chunks from i on have any data.
func (r *chunkReader) hole(i, n int) bool {
	if !r.sparse {
		return false
	}
	off := int64(i) * tree.ChunkSize
	// Descriptor offsets do not matter here: chunks are read with pread.
	data, err := unix.Seek(int(r.f.Fd()), off, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO) || err == nil && data >= off+int64(n)*tree.ChunkSize
}

func (r *chunkReader) one(ref *tree.Ref, i int, buf []byte) error {
	data := buf[:tree.ChunkLen(r.size, i)]
	n, err := r.f.ReadAt(data, int64(i)*tree.ChunkSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(data[n:]) // the file became shorter: the second stat will tell
	full, part := zeros(data)
	if full {
		return nil
	}
	*ref = tree.Ref{Hash: tree.Sum(data), Zeros: part}
	if !r.w.keep {
		return nil
	}
	return r.w.batch.Chunk(ref.Hash, data)
}

// zeros tells whether all of data is zero, and whether any whole block is.
func zeros(data []byte) (all, some bool) {
	all = true
	var zero [tree.BlockSize]byte
	for len(data) > 0 {
		n := min(len(data), tree.BlockSize)
		if bytes.Equal(data[:n], zero[:n]) {
			some = some || n == tree.BlockSize
		} else {
			all = false
		}
		data = data[n:]
	}
	return all, some
}
