package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// Replace writes a file of mode 0600. Whatever happens, the file has the old content or
// the new one, and after nil the new one also if the power is lost. The temporary file is
// beside it and its name begins with a dot. Several processes may do it at once: the last
// one's content stays. After an error from the directory's sync it may be either.
func Replace(file string, data []byte) (err error) {
	dir := filepath.Dir(file)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return SyncDir(dir)
}

// SyncDir makes what was named, renamed and removed in a directory outlast a loss of power.
// The files' contents are their writers' to sync.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
