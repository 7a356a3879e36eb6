package export

import (
	"bufio"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestARemovalThatHangsIsNobodyElses: the kernel, asked to end the state of clients in a file
// system whose pool hangs, does not answer.
func TestARemovalThatHangsIsNobodyElses(t *testing.T) {
	k := newFakeServer(t)
	unlock := filepath.Join(k.dir, "proc", "unlock_filesystem")
	if err := os.Remove(unlock); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(unlock, 0o600); err != nil {
		t.Fatal(err)
	}
	const other = "/sys"
	otherFSID := "22222222-2222-4222-8222-222222222222"
	mustApply(t, k, aMount, exportsOf(shareFSID, rule("1", "10.0.0.1", rw)), false)
	removed := make(chan error, 1)
	go func() { removed <- k.Remove(t.Context(), aMount) }()
	until(t, 10*time.Second, func() error { // it is withdrawn, and waits
		have, err := k.Kernel.etab()
		if err == nil && len(have) > 0 {
			err = os.ErrExist
		}
		return err
	})
	goesOn := func(mountpoint, fsid string) {
		t.Helper()
		applied := make(chan error, 1)
		go func() {
			_, _, err := k.Apply(t.Context(), mountpoint, exportsOf(fsid, rule("1", "10.0.0.1", rw)), false)
			applied <- err
		}()
		select {
		case err := <-applied:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s waits for a removal that hangs", mountpoint)
		}
	}
	goesOn(other, otherFSID)
	goesOn(aMount, shareFSID) // exported again meanwhile: its record stays
	answer, err := os.Open(unlock)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	if line, err := bufio.NewReader(answer).ReadString('\n'); line != aMount+"\n" {
		t.Errorf("%q, %v", line, err)
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if all, _ := k.List(t.Context()); len(all) != 2 {
		t.Errorf("the dead-man does not know all that is exported: %v", all)
	}
}
