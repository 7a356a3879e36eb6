package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// partSuffix follows a backup's name while it is written.
const partSuffix = ".part"

// openPart opens the file to write and locks it for as long as it is open, so that nobody
// takes it for one that was left behind. It is empty.
func (c *stateSave) openPart() (*os.File, error) {
	path := c.File + partSuffix
	for {
		part, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("save state: %w", err)
		}
		// Where files cannot be locked, nobody can find out that this one is not in use.
		if errors.Is(lock(part), unix.EWOULDBLOCK) {
			err := fail(exitRefused, "%s is being written by another process", path).next("wait for its end, or choose another name")
			return nil, errors.Join(err, part.Close())
		}
		if !isAt(part, path) {
			// Removed as left behind, between the two steps.
			if err := part.Close(); err != nil {
				return nil, fmt.Errorf("save state: %w", err)
			}
			continue
		}
		if err := part.Truncate(0); err != nil {
			return nil, errors.Join(fmt.Errorf("save state: %w", err), part.Close())
		}
		return part, nil
	}
}

// sweepParts removes what regular backups left behind that were killed: files with a
// regular backup's name while it is written, which nobody has locked. Nothing else.
func (c *stateSave) sweepParts() error {
	if c.Into == "" {
		return nil
	}
	entries, err := os.ReadDir(c.Into)
	if err != nil {
		return fmt.Errorf("look for unfinished backups: %w", err)
	}
	for _, e := range entries {
		name, part := strings.CutSuffix(e.Name(), partSuffix)
		if part && e.Type().IsRegular() && regularName.MatchString(name) {
			err = errors.Join(err, sweepPart(filepath.Join(c.Into, e.Name())))
		}
	}
	return err
}

func sweepPart(path string) error {
	// One that is a link by now, or gone, is not this program's.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove an unfinished backup: %w", err)
	}
	if lock(f) != nil || !isAt(f, path) {
		return f.Close()
	}
	if err := errors.Join(os.Remove(path), f.Close()); err != nil {
		return fmt.Errorf("remove an unfinished backup: %w", err)
	}
	return nil
}

func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// isAt tells whether path still names the open file.
func isAt(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(open, there)
}
