package zfstest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest"
)

// stub has the two methods that the test calls.
type stub struct {
	zfstest.Host
	snapshots int
}

func (s *stub) Snapshot(context.Context, ...string) error { s.snapshots++; return nil }

func (s *stub) Send(context.Context, zfs.SendRequest) (zfs.Stream, error) {
	return io.NopCloser(bytes.NewReader(make([]byte, 100))), nil
}

func TestFaultyFailsTheCallItWasTold(t *testing.T) {
	inner := &stub{}
	f := zfstest.NewFaulty(inner)
	boom := errors.New("boom")
	f.Fail("Snapshot", 2, boom)
	f.FailAfter("Snapshot", 3, boom)
	var got []error
	for range 4 {
		got = append(got, f.Snapshot(t.Context(), "a@b"))
	}
	if got[0] != nil || !errors.Is(got[1], boom) || !errors.Is(got[2], boom) || got[3] != nil {
		t.Errorf("errors %v", got)
	}
	if inner.snapshots != 3 || f.Calls("Snapshot") != 4 {
		t.Errorf("%d calls arrived of %d", inner.snapshots, f.Calls("Snapshot"))
	}
}

func TestFaultyStreams(t *testing.T) {
	f := zfstest.NewFaulty(&stub{})
	f.CutSend(1, 40)
	f.FlipSend(2, 41)
	s, err := f.Send(t.Context(), zfs.SendRequest{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(s)
	if len(b) != 40 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut: %d bytes, %v", len(b), err)
	}
	s, err = f.Send(t.Context(), zfs.SendRequest{})
	if err != nil {
		t.Fatal(err)
	}
	b, err = io.ReadAll(s)
	want := make([]byte, 100)
	want[41] = 0xff
	if err != nil || !bytes.Equal(b, want) {
		t.Errorf("flip: %v, %v", b, err)
	}
}
