package zfs_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sync/errgroup"

	"tarn/zfs"
)

// TestSplice moves bytes from pipe to pipe while both ends are by turns too slow. Neither
// a byte nor a wake-up is lost.
func TestSplice(t *testing.T) {
	for round := range 20 {
		fromR, fromW, err := os.Pipe()
		ok(t, err)
		toR, toW, err := os.Pipe()
		ok(t, err)
		want := noise(3<<20 + round)
		var g errgroup.Group
		g.Go(func() error {
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 1+len(rest)%70_001)
				if _, err := fromW.Write(rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return fromW.Close()
		})
		g.Go(func() error {
			total := 0
			done, err := zfs.SpliceAll(toW, fromR, func(n int) { total += n })
			if total != len(want) {
				t.Errorf("told of %d bytes of %d", total, len(want))
			}
			if !done {
				err = errors.New("pipes are not spliced")
			}
			return errors.Join(err, toW.Close())
		})
		var got bytes.Buffer
		_, err = io.CopyBuffer(onlyWriter{&got}, onlyReader{toR}, make([]byte, 1+round*7919))
		ok(t, errors.Join(err, g.Wait(), fromR.Close(), toR.Close()))
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("%d bytes of %d arrived", got.Len(), len(want))
		}
	}
}

type onlyWriter struct{ io.Writer }

type onlyReader struct{ io.Reader }
