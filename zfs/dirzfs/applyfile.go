package dirzfs

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tarn/zfs/dirzfs/internal/tree"
)

// patchInPlace is the size from which a file that changed in few places is changed
// where it is, if the file system cannot clone it: copying it all would make every
// increment cost its whole size. Readers may see such a change half done, as they
// may on the host where it was made.
const patchInPlace = 64 << 20

// file brings a file's content and metadata in.
func (a *applier) file(ctx context.Context, d *dir, old, e *tree.Entry) error {
	if patchable(old, e) {
		if done, err := a.patch(ctx, d, e, old); done || err != nil {
			return err
		}
	}
	if a.fresh {
		return a.create(ctx, d, e)
	}
	name := a.tempName()
	f, err := createAt(a.tmp, name)
	if err != nil {
		return err
	}
	if err := errors.Join(a.write(ctx, f, e, nil), f.Close()); err != nil {
		return errors.Join(err, a.tmp.removeAll(name)) // its space may be what is missing
	}
	return a.moveIn(name, d, e)
}

// create writes a file under its own name: nobody has seen this tree yet.
func (a *applier) create(ctx context.Context, d *dir, e *tree.Entry) error {
	f, err := createAt(d, e.Name)
	if err != nil {
		return err
	}
	if err := errors.Join(a.write(ctx, f, e, nil), f.Close()); err != nil {
		return err
	}
	return a.finish(d, e.Name, e)
}

func createAt(d *dir, name string) (*os.File, error) {
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC | unix.O_NOFOLLOW
	fd, err := unix.Openat(d.fd(), name, flags, 0o600)
	if errors.Is(err, unix.EEXIST) { // left by a crash
		if err = d.removeAll(name); err == nil {
			fd, err = unix.Openat(d.fd(), name, flags, 0o600)
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: d.path(name), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// patchable tells whether patching a file's old content pays.
func patchable(old, e *tree.Entry) bool {
	return old != nil && old.Kind == tree.File && old.Link == e.Link && e.Size >= 1<<20
}

// patch changes only the chunks that differ: in a clone that then takes the name,
// or, for large files where there are no clones, in place.
func (a *applier) patch(ctx context.Context, d *dir, e, old *tree.Entry) (done bool, err error) {
	name := a.tempName()
	if f, err := a.cloneTo(d, e.Name, name); err == nil {
		if err := errors.Join(a.write(ctx, f, e, old), f.Close()); err != nil {
			return false, errors.Join(err, a.tmp.removeAll(name))
		}
		return true, a.moveIn(name, d, e)
	}
	if e.Size < patchInPlace {
		return false, nil
	}
	if err := a.writableNode(d, e); err != nil {
		return false, err
	}
	f, err := d.open(e.Name, unix.O_WRONLY)
	if err != nil {
		return false, nil
	}
	if err := errors.Join(a.write(ctx, f, e, old), f.Close()); err != nil {
		return false, err
	}
	return true, a.finish(d, e.Name, e)
}

func (a *applier) cloneTo(d *dir, from, to string) (*os.File, error) {
	src, err := d.open(from, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer src.Close() //nolint:errcheck // read only
	dst, err := createAt(a.tmp, to)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		return nil, errors.Join(err, dst.Close(), a.tmp.removeAll(to))
	}
	return dst, nil
}

// write fills a file with chunks, but for those that it has from its old entry, if there is
// one. Zero blocks become holes.
func (a *applier) write(ctx context.Context, f *os.File, e, old *tree.Entry) error {
	if err := f.Truncate(e.Size); err != nil {
		return err
	}
	return e.Runs(a.to, func(run tree.Run) (err error) {
		var have []tree.Ref
		if old != nil {
			if e.SameRun(run.First, old) {
				return ctx.Err()
			}
			if have, err = old.RefsAt(run.First, a.from); err != nil {
				return err
			}
		}
		if run.Hole && len(have) == 0 {
			return ctx.Err()
		}
		return a.writeRun(ctx, f, e.Size, run, have)
	})
}

// writeRun writes a run, in whose place have are.
func (a *applier) writeRun(ctx context.Context, f *os.File, size int64, run tree.Run, have []tree.Ref) error {
	refs, first := run.Refs, run.First
	if len(refs) <= parallelChunks {
		return a.writeSome(ctx, f, size, refs, have, first)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for at := 0; at < len(refs); at += parallelChunks {
		g.Go(func() error {
			return a.writeSome(ctx, f, size, refs[at:min(at+parallelChunks, len(refs))], have[min(at, len(have)):], first+at)
		})
	}
	return g.Wait()
}

func (a *applier) writeSome(ctx context.Context, f *os.File, size int64, refs, have []tree.Ref, first int) error {
	if len(refs) == 0 {
		return nil
	}
	buf := a.buffers.Get().(*[]byte)
	defer a.buffers.Put(buf)
	for i, r := range refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := first + i
		if i < len(have) && have[i] == r {
			continue
		}
		if err := a.writeChunk(f, n, tree.ChunkLen(size, n), r, i < len(have), *buf); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) writeChunk(f *os.File, n, length int, r tree.Ref, over bool, buf []byte) error {
	off := int64(n) * tree.ChunkSize
	data := buf[:length]
	if r.Hash.IsZero() {
		if !over {
			return nil
		}
		clear(data)
	} else {
		var err error
		if data, err = a.p.store.Chunk(r.Hash, buf); err != nil {
			return err
		}
		if len(data) != length {
			return errors.New("chunk of the wrong length")
		}
	}
	if !r.Zeros || over {
		_, err := f.WriteAt(data, off)
		return err
	}
	return writeSparse(f, data, off)
}

func writeSparse(f *os.File, data []byte, off int64) error {
	for len(data) > 0 {
		n := min(len(data), tree.BlockSize)
		if all, _ := zeros(data[:n]); !all {
			if _, err := f.WriteAt(data[:n], off); err != nil {
				return err
			}
		}
		data, off = data[n:], off+int64(n)
	}
	return nil
}

// finish sets a node's metadata and puts its signature into the index. name ""
// is the directory d itself.
func (a *applier) finish(d *dir, name string, e *tree.Entry) error {
	if err := a.metadata(d, name, e); err != nil {
		return err
	}
	return a.remember(d, name, e)
}

func (a *applier) metadata(d *dir, name string, e *tree.Entry) error {
	if err := a.setXattrs(d, name, e); err != nil {
		return err
	}
	if a.root {
		if err := unix.Fchownat(d.fd(), name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW|emptyPath(name)); err != nil {
			return &fs.PathError{Op: "chown", Path: d.path(name), Err: err}
		}
	}
	// The time first: without search permission a directory's is out of reach.
	if err := d.setTime(name, e.MTime); err != nil || e.Kind == tree.Symlink {
		return err
	}
	mode := liveMode(e.Mode, a.root)
	if a.ds.Masked {
		mode &^= 0o222
	}
	if err := d.chmod(name, mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: d.path(name), Err: err}
	}
	return nil
}

func emptyPath(name string) int {
	if name == "" {
		return unix.AT_EMPTY_PATH
	}
	return 0
}

func (d *dir) setTime(name string, mtime int64) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(mtime)}
	flags := unix.AT_SYMLINK_NOFOLLOW
	target := name
	if name == "" {
		target, flags = ".", 0
	}
	if err := unix.UtimesNanoAt(d.fd(), target, ts, flags); err != nil {
		return &fs.PathError{Op: "utimes", Path: d.path(name), Err: err}
	}
	return nil
}

// setXattrs brings the user.* attributes in line. Others are left out: a stream
// must not give itself capabilities.
func (a *applier) setXattrs(d *dir, name string, e *tree.Entry) error {
	if e.Kind != tree.File && e.Kind != tree.Dir {
		return nil // what follows a name would follow a symlink
	}
	have, err := d.xattrs(name, e.Kind)
	if err != nil || reflect.DeepEqual(have, e.Xattrs) {
		return err
	}
	if !a.root {
		if err := d.chmod(name, 0o700); err != nil {
			return err
		}
	}
	for _, x := range have {
		if err := unix.Lremovexattr(d.proc(name), x.Name); err != nil {
			return &fs.PathError{Op: "removexattr", Path: d.path(name), Err: err}
		}
	}
	for _, x := range e.Xattrs {
		if !strings.HasPrefix(x.Name, "user.") {
			continue
		}
		if err := unix.Lsetxattr(d.proc(name), x.Name, x.Value, 0); err != nil {
			return &fs.PathError{Op: "setxattr", Path: d.path(name), Err: err}
		}
	}
	return nil
}

func (a *applier) remember(d *dir, name string, e *tree.Entry) error {
	st, err := d.stat(name)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.noteSignature(indexPlace(d, name), &st, e.Size)
	return nil
}

// relink records a new name; the link changed the ctime of the first one too.
func (a *applier) relink(parent *dir, base string, d *dir, e *tree.Entry) error {
	st, err := d.stat(e.Name)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.noteSignature([2]string{d.rel, e.Name}, &st, e.Size)
	a.noteSignature([2]string{parent.rel, base}, &st, 0)
	return nil
}

// indexPlace is where the index keeps a node: a directory that was finished through
// its own descriptor belongs to its parent.
func indexPlace(d *dir, name string) [2]string {
	if name != "" {
		return [2]string{d.rel, name}
	}
	if d.rel == "" {
		return [2]string{"/", ""}
	}
	if i := strings.LastIndexByte(d.rel, '/'); i >= 0 {
		return [2]string{d.rel[:i], d.rel[i+1:]}
	}
	return [2]string{"", d.rel}
}

func (a *applier) noteSignature(at [2]string, st *unix.Stat_t, size int64) {
	a.index.set(at[0], at[1], signatureOf(st))
	a.ctime = max(a.ctime, st.Ctim.Nano())
	a.late += size + 1<<10
}

func ctimeOf(s signature) int64 { return int64(binary.BigEndian.Uint64(s[24:])) }

// openParent opens the directory of a path inside the dataset, never through a
// symlink.
func (a *applier) openParent(path string) (*dir, string, error) {
	d, err := a.top.again()
	if err != nil {
		return nil, "", err
	}
	parts := strings.Split(path, "/")
	for _, name := range parts[:len(parts)-1] {
		next, err := d.openDir(name)
		d.close()
		if err != nil {
			return nil, "", err
		}
		d = next
	}
	return d, parts[len(parts)-1], nil
}

// again opens the same directory a second time.
func (d *dir) again() (*dir, error) {
	fd, err := openat(d.fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &dir{f: os.NewFile(uintptr(fd), d.rel), rel: d.rel}, nil
}

// removeAll deletes a node with everything below it, and never follows a symlink.
// Nothing there is fine.
func (d *dir) removeAll(name string) error {
	err := unix.Unlinkat(d.fd(), name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return &fs.PathError{Op: "unlink", Path: d.path(name), Err: err}
	}
	sub, err := d.openDir(name)
	if err != nil {
		return err
	}
	defer sub.close()
	if err := sub.empty(); err != nil {
		return err
	}
	return unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR)
}

func (d *dir) empty() error {
	if os.Geteuid() != 0 {
		if err := d.chmod("", 0o700); err != nil {
			return err
		}
	}
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := d.removeAll(n); err != nil {
			return err
		}
	}
	return nil
}
