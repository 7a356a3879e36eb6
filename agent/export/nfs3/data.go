package nfs3

import (
	"errors"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

func read(c *call) func() error {
	handle, offset, count := c.in.handle(), c.in.u64(), c.in.u32()
	return func() error {
		return c.on(handle, reads, func(f *file) error {
			if offset > math.MaxInt64-maxData {
				return statusInval
			}
			data, st, err := f.read(int64(offset), min(count, maxData))
			if err != nil {
				return err
			}
			c.afterStat(f.place, &st)
			c.out.u32(uint32(len(data)))
			c.out.flag(offset+uint64(len(data)) >= st.Size)
			c.out.bytes(data)
			return nil
		})
	}
}

func (f *file) read(offset int64, count uint32) ([]byte, unix.Statx_t, error) {
	in, st, err := f.content(os.O_RDONLY)
	if err != nil {
		return nil, st, err
	}
	data := make([]byte, count)
	n, err := in.ReadAt(data, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:n], st, errors.Join(err, in.Close())
}

// How far a write is on disk when it is answered.
const (
	unstable = 0
	dataSync = 1
	fileSync = 2
)

func write(c *call) func() error {
	handle, offset, count, stable := c.in.handle(), c.in.u64(), c.in.u32(), c.in.u32()
	data := c.in.bytes(maxData)
	return func() error {
		return c.on(handle, writes, func(f *file) error {
			if uint64(count) != uint64(len(data)) || stable > fileSync {
				return statusInval
			}
			if offset > maxFile-uint64(len(data)) {
				return statusFBig
			}
			promise := f.promise() // before: what fails meanwhile is in doubt
			if err := f.write(data, int64(offset), stable != unstable); err != nil {
				return err
			}
			c.change(f.place, f.name)
			c.out.u32(count)
			if stable != unstable {
				stable = fileSync
			}
			c.out.u32(stable)
			c.out.b = append(c.out.b, promise[:]...)
			return nil
		})
	}
}

func (f *file) write(data []byte, offset int64, sync bool) error {
	out, _, err := f.content(os.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = out.WriteAt(data, offset)
	if err == nil && sync {
		err = f.sync(out)
	}
	return errors.Join(err, out.Close())
}

func commit(c *call) func() error {
	handle, _, _ := c.in.handle(), c.in.u64(), c.in.u32()
	return func() error {
		return c.on(handle, writes, func(f *file) error {
			in, _, err := f.content(os.O_RDONLY)
			if errors.Is(err, os.ErrPermission) {
				in, _, err = f.content(os.O_WRONLY)
			}
			if err != nil {
				return err
			}
			if err := errors.Join(f.sync(in), in.Close()); err != nil {
				return err
			}
			promise := f.promise()
			c.change(f.place, f.name)
			c.out.b = append(c.out.b, promise[:]...)
			return nil
		})
	}
}
