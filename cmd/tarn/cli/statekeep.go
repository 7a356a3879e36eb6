package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// Regular backups are named by the UTC second in which they were begun, so that the order
// of names is that of their time.
const regularLayout = "tarn-20060102T150405Z.backup"

var regularName = regexp.MustCompile(`^tarn-\d{8}T\d{6}Z\.backup$`)

// name gives a regular backup its name.
func (c *stateSave) name(now time.Time) error {
	switch {
	case (c.File == "") == (c.Into == ""):
		return fail(exitUsage, "one of FILE and --into DIR is needed").next("tarn operator snapshot save --help")
	case c.Keep < 0 || c.Keep > 0 && c.Into == "":
		return fail(exitUsage, "--keep N goes with --into DIR, and N is not negative").next("tarn operator snapshot save --help")
	case c.Into != "":
		c.File = filepath.Join(c.Into, now.UTC().Format(regularLayout))
	}
	return nil
}

// retain removes the oldest regular backups beside the new one, which always stays. Files
// of other names are not touched.
func (c *stateSave) retain() error {
	if c.Keep == 0 {
		return nil
	}
	entries, err := os.ReadDir(c.Into)
	if err != nil {
		return fmt.Errorf("look for old backups: %w", err)
	}
	var others []string
	for _, e := range entries {
		if e.Type().IsRegular() && regularName.MatchString(e.Name()) && e.Name() != filepath.Base(c.File) {
			others = append(others, e.Name())
		}
	}
	slices.Sort(others)
	old := others[:max(0, len(others)+1-c.Keep)]
	for _, name := range old {
		err = errors.Join(err, os.Remove(filepath.Join(c.Into, name)))
	}
	if err != nil {
		return fmt.Errorf("remove old backups: %w", err)
	}
	return nil
}
