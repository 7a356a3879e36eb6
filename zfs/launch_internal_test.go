package zfs

import (
	"errors"
	"os/exec"
	"testing"
	"time"
)

// TestOutputThatDoesNotEnd: of a tool elsewhere that has ended, while its output has not, the
// output is not taken for the whole.
func TestOutputThatDoesNotEnd(t *testing.T) {
	out := &boundedBuffer{limit: 100}
	s, err := newSink(out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.file.WriteString("half of a list"); err != nil {
		t.Fatal(err)
	}
	if err := s.drain(time.Millisecond); !errors.Is(err, exec.ErrWaitDelay) {
		t.Errorf("drained with %v", err)
	}
	s.handed()
	whole, err := newSink(out)
	if err != nil {
		t.Fatal(err)
	}
	whole.handed()
	if err := whole.drain(time.Minute); err != nil {
		t.Errorf("ended with %v", err)
	}
}
