package zfstest

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"tarn/zfs"
)

// logVariable names a file to which every run of the suite appends a line, so that
// whoever started many test processes can tell which engines passed.
const logVariable = "TARN_CONFORMANCE_LOG"

// tally counts the tests of a run.
type tally struct {
	passed, skipped, failed atomic.Int64
}

// count adds a test when it ends.
func (c *tally) count(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		switch {
		case t.Failed():
			c.failed.Add(1)
		case t.Skipped():
			c.skipped.Add(1)
		default:
			c.passed.Add(1)
		}
	})
}

// record writes "ENGINE VERSION: 80 passed, 3 skipped, 0 failed".
func (c *tally) record(t *testing.T, caps zfs.Capabilities) {
	t.Helper()
	path := os.Getenv(logVariable)
	if path == "" {
		return
	}
	log, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	ok(t, err)
	_, err = fmt.Fprintf(log, "%s %s: %d passed, %d skipped, %d failed\n",
		caps.Engine, caps.Version, c.passed.Load(), c.skipped.Load(), c.failed.Load())
	ok(t, err)
	ok(t, log.Close())
}
