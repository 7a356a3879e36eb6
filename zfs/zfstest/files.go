package zfstest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
)

// random gives bytes that do not compress.
func random(n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	ok(t, os.WriteFile(path, data, 0o644))
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	ok(t, err)
	return b
}

func overwrite(t *testing.T, path string, off int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	ok(t, err)
	_, err = f.WriteAt(data, off)
	ok(t, errors.Join(err, f.Close()))
}

// Node is one file of a tree, as far as a replica has to be equal.
type Node struct {
	Mode   fs.FileMode
	MTime  int64 // ns
	Size   int64 // files
	Sum    string
	Target string // symlinks
	Links  string // the names of the same file inside the tree
	Xattrs string
}

// ReadTree reads everything below dir, by path.
func ReadTree(dir string) (map[string]Node, error) {
	nodes := map[string]Node{}
	inodes := map[uint64][]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		n, ino, err := readNode(path)
		nodes[rel] = n
		if !n.Mode.IsDir() {
			inodes[ino] = append(inodes[ino], rel)
		}
		return err
	})
	for _, names := range inodes {
		sort.Strings(names)
		for _, n := range names {
			node := nodes[n]
			node.Links = fmt.Sprintf("%q", names)
			nodes[n] = node
		}
	}
	return nodes, err
}

func readNode(path string) (n Node, ino uint64, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return n, 0, err
	}
	n = Node{Mode: info.Mode(), MTime: info.ModTime().UnixNano()}
	switch {
	case info.Mode().IsRegular():
		b, err := os.ReadFile(path)
		if err != nil {
			return n, 0, err
		}
		n.Size, n.Sum = info.Size(), fmt.Sprintf("%x", sha256.Sum256(b))
		n.Xattrs = xattrs(path)
	case info.IsDir():
		n.Xattrs = xattrs(path)
	case info.Mode()&fs.ModeSymlink != 0:
		n.Target, err = os.Readlink(path)
	}
	return n, info.Sys().(*syscall.Stat_t).Ino, err
}

func xattrs(path string) string {
	buf := make([]byte, 4096)
	n, err := syscall.Listxattr(path, buf)
	if err != nil || n == 0 {
		return ""
	}
	var list []string
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		v := make([]byte, 4096)
		n, _ := syscall.Getxattr(path, name, v)
		list = append(list, fmt.Sprintf("%s=%q", name, v[:max(n, 0)]))
	}
	sort.Strings(list)
	return strings.Join(list, " ")
}

// DiffTree describes the differences between two trees, "" if there are none.
func DiffTree(want, got map[string]Node) string {
	var b strings.Builder
	for path, w := range want {
		if g, there := got[path]; !there {
			fmt.Fprintf(&b, "missing %q\n", path)
		} else if g != w {
			fmt.Fprintf(&b, "%q: want %+v, got %+v\n", path, w, g)
		}
	}
	for path := range got {
		if _, there := want[path]; !there {
			fmt.Fprintf(&b, "unexpected %q\n", path)
		}
	}
	return b.String()
}

func readTree(t *testing.T, dir string) map[string]Node {
	t.Helper()
	n, err := ReadTree(dir)
	ok(t, err)
	return n
}

// sameTree compares trees; write bits are left out when the second is of a
// filesystem mounted read-only, as an engine may clear them there.
func sameTree(t *testing.T, want, got map[string]Node) {
	t.Helper()
	if d := DiffTree(want, got); d != "" {
		if masked(got) && DiffTree(mask(want), got) == "" {
			return
		}
		t.Fatalf("trees differ:\n%s", d)
	}
}

func masked(tree map[string]Node) bool {
	for _, n := range tree {
		if n.Mode&fs.ModeSymlink == 0 && n.Mode&0o222 != 0 {
			return false
		}
	}
	return true
}

func mask(tree map[string]Node) map[string]Node {
	out := make(map[string]Node, len(tree))
	for path, n := range tree {
		if n.Mode&fs.ModeSymlink == 0 {
			n.Mode &^= 0o222
		}
		out[path] = n
	}
	return out
}
