package export

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// errNotMounted says that a path is a directory of the file system above, if anything.
var errNotMounted = errors.New("nothing is mounted")

// mountedAt finds what is mounted at a path, in the kernel's words: of ZFS a dataset's name.
// It reads what the kernel says, and so waits for no file system, as looking at the
// directory would.
func mountedAt(path string) (source string, err error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("list mounts: %w", err)
	}
	source, ok := sourceAt(string(text), path)
	if !ok {
		return "", fmt.Errorf("%w at %s", errNotMounted, path)
	}
	return source, nil
}

// sourceAt follows a path through /proc/PID/mountinfo (proc_pid_mountinfo(5)), from mount to
// mount as the kernel does: one that is hidden by a later one, at the path or above it, does
// not count. The order of the lines says nothing.
func sourceAt(mountinfo, path string) (source string, ok bool) {
	type mount struct{ id, parent, dir, source string }
	type place struct{ parent, dir string }
	var all []mount
	known := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		before, after, found := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if found && len(fields) >= 5 && len(kind) >= 2 && fields[0] != fields[1] {
			all = append(all, mount{fields[0], fields[1], unescape(fields[4]), strings.ToValidUTF8(unescape(kind[1]), "?")})
			known[fields[0]] = true
		}
	}
	at := map[place]mount{}
	for _, m := range all {
		if !known[m.parent] {
			m.parent = "" // the root's, or outside of this process' root
		}
		at[place{m.parent, m.dir}] = m
	}
	here := mount{}
	for end := 1; end <= len(path); end++ {
		if end > 1 && end < len(path) && path[end] != '/' {
			continue
		}
		for next, more := at[place{here.id, path[:end]}]; more; next, more = at[place{here.id, path[:end]}] {
			delete(at, place{here.id, path[:end]}) // even lines that lead in a circle end
			here = next
		}
	}
	if here.dir != path || path == "" {
		return "", false
	}
	return here.source, true
}
