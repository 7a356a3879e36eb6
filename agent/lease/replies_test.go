package lease

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
)

// TestAnswersToAStoppedAgent: whoever does not read makes nobody wait, and finds what there
// was room for when it reads again.
func TestAnswersToAStoppedAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		a := newReplies(w)
		dropped := 0
		for range 2 * unread {
			if err := writeLine(a, answer{Fenced: &Target{Dataset: "p/a"}}); errors.Is(err, errUnread) {
				dropped++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		a.close() // nobody reads: it waits no longer than that
		in, read := bufio.NewReader(r), 0
		for ; read+dropped < 2*unread; read++ {
			line, err := in.ReadString('\n')
			if err != nil || !strings.Contains(line, "p/a") {
				t.Fatal(read, line, err)
			}
		}
		if read < unread || dropped == 0 {
			t.Errorf("%d read, %d dropped", read, dropped)
		}
		<-a.done
	})
}

// TestAnswersToNobody: an agent that has gone is no reason to stop.
func TestAnswersToNobody(t *testing.T) {
	r, w := io.Pipe()
	_ = r.Close()
	a := newReplies(w)
	for range 3 {
		if err := writeLine(a, answer{Sequence: 1}); err != nil {
			t.Error(err)
		}
	}
	a.close()
}
