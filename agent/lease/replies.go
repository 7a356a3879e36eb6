package lease

import (
	"errors"
	"io"
	"time"
)

const (
	// unread is how many answers wait for an agent that does not read: some more than
	// anybody asks for at a time.
	unread = 4096
	// lastAnswers is how long the end waits for what was not read yet.
	lastAnswers = time.Second
)

var errUnread = errors.New("the agent reads nothing: the answer is dropped")

// replies writes for the dead-man, and never makes it wait: an agent that is stopped reads
// nothing, and that is when the dead-man has most to say. What the pipe cannot take waits
// in memory; what is too much is dropped, and an agent that goes on asks again.
type replies struct {
	lines chan []byte
	done  chan struct{}
}

// newReplies starts the writing, which close ends.
func newReplies(to io.Writer) *replies {
	a := &replies{lines: make(chan []byte, unread), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		var gone error
		for line := range a.lines {
			if gone == nil {
				_, gone = to.Write(line)
			}
		}
	}()
	return a
}

// Write implements io.Writer; not to be called after close, nor by two at a time.
func (a *replies) Write(line []byte) (int, error) {
	select {
	case a.lines <- append([]byte(nil), line...):
		return len(line), nil
	default:
		return 0, errUnread
	}
}

// close lets the agent read what is left, if it reads at all.
func (a *replies) close() {
	close(a.lines)
	timer := time.NewTimer(lastAnswers)
	defer timer.Stop()
	select {
	case <-a.done:
	case <-timer.C:
	}
}
