package dirzfs

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holderLooks bounds how often processes that were begun meanwhile are looked for.
const holderLooks = 20

// holders lists the processes, as "pid 7 (comm)", that have something of a tree
// open, mapped, or as working or root directory. The kernel shows the present path
// of an open file, so the tree is found wherever it has been moved to.
func holders(tree string) ([]string, error) {
	tree, err := filepath.EvalSymlinks(tree)
	if err != nil {
		return nil, err
	}
	var list []string
	seen := map[int]bool{}
	// Who was begun while we looked may have from its parent, which ended, what we did not see.
	for range holderLooks {
		procs, err := os.ReadDir("/proc")
		if err != nil {
			return nil, err
		}
		more := false
		for _, e := range procs {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || seen[pid] {
				continue
			}
			seen[pid], more = true, true
			if holds(filepath.Join("/proc", e.Name()), tree) {
				list = append(list, fmt.Sprintf("pid %d (%s)", pid, comm(pid)))
			}
		}
		if !more || len(list) > 0 {
			break
		}
	}
	return list, nil
}

func comm(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "gone"
	}
	return strings.TrimSpace(string(b))
}

func holds(proc, tree string) bool {
	for _, link := range []string{"cwd", "root"} {
		if linkInside(filepath.Join(proc, link), tree) {
			return true
		}
	}
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return false // the process is ending
	}
	for _, fd := range fds {
		if linkInside(filepath.Join(proc, "fd", fd.Name()), tree) {
			return true
		}
	}
	return mapped(filepath.Join(proc, "maps"), tree)
}

func linkInside(link, tree string) bool {
	target, err := os.Readlink(link)
	return err == nil && inside(target, tree)
}

func inside(path, tree string) bool {
	rest, ok := strings.CutPrefix(path, tree)
	return ok && (rest == "" || rest[0] == '/' || strings.HasPrefix(rest, " (deleted)"))
}

// mapped tells whether a process maps a file of the tree: it may write through the
// mapping after closing the descriptor.
func mapped(file, tree string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // read only
	for s := bufio.NewScanner(f); s.Scan(); {
		if i := strings.IndexByte(s.Text(), '/'); i >= 0 && inside(s.Text()[i:], tree) {
			return true
		}
	}
	return false
}
