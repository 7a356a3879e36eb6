package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

type file struct {
	name string
	data []byte
}

// disk is a directory of identity files. Each of its steps happens whole or not at all, and
// what comes before a sync is on the disk before what comes after it.
type disk struct {
	dir string
	// before is asked before each step; nil: there is nobody to ask. Tests stop here.
	before func(step string) error
}

func (d disk) step(name string) error {
	if d.before == nil {
		return nil
	}
	return d.before(name)
}

func (d disk) make() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("create identity directory: %w", err)
	}
	return nil
}

func (d disk) write(files ...file) error {
	for _, f := range files {
		if err := d.step("write " + f.name); err != nil {
			return err
		}
		if err := writeAtomic(d.dir, f); err != nil {
			return err
		}
	}
	return nil
}

func (d disk) sync() error {
	if err := d.step("sync"); err != nil {
		return err
	}
	return syncDir(d.dir)
}

func (d disk) remove(name string) error {
	if err := d.step("remove " + name); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(d.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// writeAtomic goes through a synced temporary file, which os.CreateTemp makes
// with mode 0600, so that a crash leaves the old file or the new one.
func writeAtomic(dir string, f file) (err error) {
	tmp, err := os.CreateTemp(dir, "."+f.name+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", f.name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", f.name, err), os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(f.data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), filepath.Join(dir, f.name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync identity directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
