package filetree

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Tree makes files of reproducible random bytes and counts them. Not safe for
// concurrent use.
type Tree struct {
	random *rand.ChaCha8
	// Bytes and Count of the files written so far.
	Bytes int64
	Count int
}

// New begins a tree; equal seeds give equal files.
func New(seed uint64) *Tree {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return &Tree{random: rand.NewChaCha8(key)}
}

// Fill writes a mixed set of files: large and small, nested, with odd names, a
// symbolic link and an empty directory.
func (t *Tree) Fill(dir string) error {
	sizes := map[string]int{
		"big.bin": 8 << 20, "notes.txt": 1200, "empty": 0, "a name with spaces.dat": 70_000,
		"döner\nkebap": 333, "src/main.go": 4096, "src/deep/er/data.bin": 300_000,
	}
	for i := range 40 {
		sizes[fmt.Sprintf("many/file-%02d", i)] = 1000 * (i + 1)
	}
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		if err := t.Write(filepath.Join(dir, name), sizes[name]); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "nothing"), 0o755); err != nil {
		return err
	}
	return os.Symlink("src/main.go", filepath.Join(dir, "link"))
}

// Write makes one file of random bytes and syncs it: from then on it is acknowledged.
func (t *Tree) Write(path string, size int) error {
	data := make([]byte, size)
	if _, err := t.random.Read(data); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	t.Bytes += int64(size)
	t.Count++
	return nil
}

// Grow writes a new file of 256 KiB ten times a second until ctx ends.
func (t *Tree) Grow(ctx context.Context, dir string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		if err := t.Write(filepath.Join(dir, "growing", fmt.Sprintf("%05d", t.Count)), 256<<10); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// entry is what two trees must agree on.
type entry struct {
	kind   fs.FileMode
	target string
	size   int64
	sum    [sha256.Size]byte
}

func readTree(dir string) (map[string]entry, error) {
	out := map[string]entry{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		out[name], err = readEntry(path, d)
		return err
	})
	return out, err
}

func readEntry(path string, d fs.DirEntry) (e entry, err error) {
	e.kind = d.Type()
	switch {
	case e.kind&fs.ModeSymlink != 0:
		e.target, err = os.Readlink(path)
	case e.kind.IsRegular():
		var data []byte
		data, err = os.ReadFile(path)
		e.size, e.sum = int64(len(data)), sha256.Sum256(data)
	}
	return e, err
}

// Difference names the first few entries in which two directories differ, nil when they are
// equal, and counts the entries of a. Kinds, link targets and bytes are compared;
// modes and owners are not, because a read-only copy shows other ones.
func Difference(a, b string) ([]string, int, error) {
	left, err := readTree(a)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", a, err)
	}
	right, err := readTree(b)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", b, err)
	}
	var out []string
	for name, l := range left {
		r, ok := right[name]
		switch {
		case !ok:
			out = append(out, name+" is missing")
		case l.kind != r.kind || l.target != r.target || l.size != r.size || l.sum != r.sum:
			out = append(out, name+" differs")
		}
	}
	for name := range right {
		if _, ok := left[name]; !ok {
			out = append(out, name+" is too much")
		}
	}
	return out[:min(len(out), 5)], len(left), nil
}
