package realzfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Freeze keeps what is on the pool's disk at this moment. Not while much is being
// written: the disk is not copied in one.
func Freeze(p Pool) (image string, err error) {
	image = p.File + ".frozen"
	from, err := os.Open(p.File)
	if err != nil {
		return "", err
	}
	defer from.Close() //nolint:errcheck // was only read
	to, err := os.Create(image)
	if err != nil {
		return "", err
	}
	if err := errors.Join(copySparse(to, from), to.Close()); err != nil {
		return "", fmt.Errorf("copy the disk: %w", err)
	}
	return image, nil
}

// copySparse leaves out what is zero: disks are much larger than what is on them.
func copySparse(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	block, zero := make([]byte, 128<<10), make([]byte, 128<<10)
	for at := int64(0); at < info.Size(); at += int64(len(block)) {
		n, err := from.ReadAt(block, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if bytes.Equal(block[:n], zero[:n]) {
			continue
		}
		if _, err := to.WriteAt(block[:n], at); err != nil {
			return err
		}
	}
	return to.Truncate(info.Size())
}

// Crash is a machine that lost power when the image was made, and is switched on again.
// What is mounted by hand only is not mounted any more.
func Crash(p Pool, image string) error {
	if err := Export(p); err != nil {
		return err
	}
	if err := os.Rename(image, p.File); err != nil {
		return err
	}
	return Zpool("import", "-f", "-d", filepath.Dir(p.File), "-o", "cachefile=none", p.Name)
}
