package zfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"tarn/zfs"
)

// TestReceiveThatTakesNothing: a zfs receive that stops in the middle of its stream is
// ended, whichever way the bytes go: the error says so, and no process is left.
func TestReceiveThatTakesNothing(t *testing.T) {
	cfg, dir := fake(t, `[ "$1" = receive ] && { echo $$ >$dir/pid; head -c 1000 >/dev/null; sleep 1000; }; exit 0`)
	cfg.ReceivePatience = 2 * time.Second // a loaded machine has begun the process by then
	h := openWith(t, cfg)
	first := head(binary.LittleEndian, nil)
	for name, stream := range map[string]func(t *testing.T) io.Reader{
		"copied":  func(*testing.T) io.Reader { return zeros{} },
		"spliced": pipeOf,
		// Less than a pipe holds, and then a source that sends nothing: what it has sent waits.
		"less than a pipe": func(t *testing.T) io.Reader {
			r, w := io.Pipe()
			t.Cleanup(func() { _ = w.Close() })
			return io.MultiReader(bytes.NewReader(make([]byte, 10_000)), r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var from io.Reader = io.MultiReader(bytes.NewReader(first), stream(t))
			if name == "spliced" {
				f := stream(t).(*os.File)
				from = piped{io.MultiReader(bytes.NewReader(first), f), f}
			}
			err := h.Receive(t.Context(), zfs.ReceiveRequest{Target: "p/y@1", Resumable: true}, from)
			fails(t, err, zfs.ErrStalled)
			for _, part := range []string{"zpool iostat p", "2s", "stream.receive_timeout"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not tell %q", err, part)
				}
			}
			gone(t, dir+"/pid")
		})
	}
}

// piped is a stream of which the rest comes out of a pipe.
type piped struct {
	io.Reader
	file *os.File
}

func (p piped) File() *os.File { return p.file }

func pipeOf(t *testing.T) io.Reader {
	r, w, err := os.Pipe()
	ok(t, err)
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		_, _ = io.Copy(struct{ io.Writer }{w}, zeros{})
	}()
	t.Cleanup(func() {
		_ = errors.Join(r.Close(), w.Close())
		<-filled
	})
	return r
}
