package zfs

import (
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestAppetite: only looks in a row that all find the same bytes untaken count.
func TestAppetite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a appetite
		var given, taken int64
		same := 0
		for range rapid.IntRange(1, 60).Draw(t, "looks") {
			given += rapid.SampledFrom([]int64{0, 0, 0, 1, 1 << 20}).Draw(t, "given")
			took := int64(0)
			if rapid.IntRange(0, 9).Draw(t, "takes") == 0 {
				took = rapid.Int64Range(0, given-taken).Draw(t, "taken")
			}
			taken += took
			if took > 0 || given == taken {
				same = 0
			} else {
				same++
			}
			if lost := a.look(given, given-taken); lost != (same >= lookings) {
				t.Fatalf("%d looks found %d bytes untaken: %v", same, given-taken, lost)
			}
		}
	})
}

// TestUntaken: a reader that takes a byte now and then is slow, one that has nothing to
// take is idle, and neither is lost. One that leaves what there is, be it a byte, is.
func TestUntaken(t *testing.T) {
	const patience = 10 * time.Minute
	take := func(t *testing.T, r *os.File, n int) {
		t.Helper()
		if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		in, r, err := newInlet()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close() //nolint:errcheck // a test's pipe
		ended := make(chan struct{})
		defer close(ended)
		lost := in.untaken(patience, ended)
		well := func(what string) {
			t.Helper()
			synctest.Wait()
			select {
			case n := <-lost:
				t.Fatalf("%s: lost with %d bytes", what, n)
			default:
			}
		}
		time.Sleep(100 * patience)
		well("nothing came")
		_, err = in.Write(make([]byte, 100))
		if err != nil {
			t.Fatal(err)
		}
		for range 99 {
			time.Sleep(patience * 8 / 10)
			take(t, r, 1)
			well("it takes a byte at a time")
		}
		time.Sleep(patience * 8 / 10)
		take(t, r, 1)
		time.Sleep(100 * patience)
		well("all was taken")
		if _, err := in.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(patience * 11 / 10)
		synctest.Wait()
		select {
		case n := <-lost:
			if n != 1 {
				t.Errorf("lost with %d bytes", n)
			}
		default:
			t.Error("it takes nothing and nobody notices")
		}
		_ = in.Close()
	})
}

// TestUntakenEndsWithItsPipe: no goroutine is left of a stream that ended.
func TestUntakenEndsWithItsPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, r, err := newInlet()
		if err != nil {
			t.Fatal(err)
		}
		lost := in.untaken(time.Minute, make(chan struct{}))
		_, _ = in.Write([]byte{1})
		_, _ = in.Close(), r.Close()
		time.Sleep(time.Hour) // the bubble ends with its goroutines only
		if len(lost) > 0 {
			t.Error("a closed pipe is no lost receive")
		}
	})
}
