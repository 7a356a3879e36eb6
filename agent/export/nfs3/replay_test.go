package nfs3

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// again makes the next call have the number of the last one.
func (r *rig) again() { r.xid-- }

// TestWhatIsSentAgainIsNotDoneAgain: the answer got lost, and others were there meanwhile.
func TestWhatIsSentAgainIsNotDoneAgain(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "first")
	put(t, filepath.Join(dir, "from"), "moved")
	r := newRig(t, nil, dir)
	root := r.root()

	r.expect(statusOK, procRemove, root, "f")
	put(t, filepath.Join(dir, "f"), "second")
	r.again()
	r.expect(statusOK, procRemove, root, "f")
	if got, err := os.ReadFile(filepath.Join(dir, "f")); string(got) != "second" {
		t.Errorf("a file that was made since is removed: %q, %v", got, err)
	}

	r.expect(statusOK, procRename, root, "from", root, "to")
	r.again()
	r.expect(statusOK, procRename, root, "from", root, "to")

	cut := func() {
		t.Helper()
		if s, _ := r.raw(procSetAttr, append(append(args(r.lookupOnce(root, "f")), sized(0)...), 0, 0, 0, 0)); s != statusOK {
			t.Fatal(s)
		}
	}
	cut()
	put(t, filepath.Join(dir, "f"), "third")
	r.again()
	cut()
	if got, _ := os.ReadFile(filepath.Join(dir, "f")); string(got) != "third" {
		t.Errorf("what was written since is cut: %q", got)
	}

	for range 2 {
		if s, _ := r.raw(procCreate, append(args(root, "made", guarded), sattr(0o600)...)); s != statusOK {
			t.Error(s)
		}
		r.again()
	}
	r.xid++
	// Another request, or another client, is another matter.
	r.expect(statusExist, procCreate, root, "made", guarded, 0, 0, 0, 0, 0, 0)
	r.again()
	r.expect(statusNoEnt, procRemove, root, "nothing")
	r.again()
	r.expect(statusOK, procRemove, root, "made")
	r.again()
	r.dial()
	r.expect(statusNoEnt, procRemove, root, "made")
}

// lookupOnce does not count as a call.
func (r *rig) lookupOnce(dir []byte, name string) []byte {
	defer func(xid uint32) { r.xid = xid }(r.xid)
	r.xid += 1000
	return r.lookup(dir, name)
}

// TestWhatIsSentAgainWaits: the first one still runs.
func TestWhatIsSentAgainWaits(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "first")
	inSync, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r := newRig(t, func(c *Config) {
		c.sync = func(f *os.File) error {
			once.Do(func() { close(inSync); <-goOn })
			return f.Sync()
		}
	}, dir)
	root := r.root()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.expect(statusOK, procRemove, root, "f")
	}()
	<-inSync
	tree := r.server.byFSID(testFSID)
	tree.replays.mu.Lock()
	var first *replay
	for _, known := range tree.replays.known {
		first = known
	}
	tree.replays.mu.Unlock()
	if before, mine := tree.replays.begin(first.request, first.began); before != first || mine != nil {
		t.Error("the second one begins")
	}
	close(goOn)
	<-done
	<-first.done
	if first.answer == nil {
		t.Error("there is no answer")
	}
}

// TestNumbersOfCalls: however the bytes come.
func TestNumbersOfCalls(t *testing.T) {
	var stream encoder
	for _, v := range []uint32{
		2, // a fragment that ends in the midst of a number
	} {
		stream.u32(v)
	}
	stream.b = append(stream.b, 0, 0)
	for _, v := range []uint32{0, 1<<31 | 14} { // an empty one, then the rest
		stream.u32(v)
	}
	stream.b = append(stream.b, 1, 2, 0, 0, 0, 0, 0, 0, 0, 2, 9, 9, 9, 9)
	for _, v := range []uint32{1<<31 | 12, 7, 0, 3, 1<<31 | 4, 8, 1<<31 | 16, 9, 0, 2, 5} { // another version, a short one, a good one
		stream.u32(v)
	}
	for _, size := range []int{1, 3, len(stream.b)} {
		var n numbers
		for rest := stream.b; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			n.pass(rest[:min(size, len(rest))])
		}
		for _, want := range []uint32{0x102, 9} {
			if got, ok := n.next(); got != want || !ok {
				t.Errorf("by %d: %d, want %d", size, got, want)
			}
		}
		if got, ok := n.next(); ok {
			t.Errorf("by %d: %d is too much", size, got)
		}
	}
}
