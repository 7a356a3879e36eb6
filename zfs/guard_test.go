package zfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// TestGuard: what zfs-fuse sends passes unchanged, whatever the reads are; each damaged
// offset or length is seen before zfs-fuse is.
func TestGuard(t *testing.T) {
	pool := realzfs.NewPool(t, 128)
	if realzfs.Kernel() {
		t.Skip("streams of newer versions pass by the guard of zfs-fuse")
	}
	h := open(t, pool)
	ds, _ := share(t, h, pool, "s", 300<<10)
	ok(t, h.Snapshot(t.Context(), ds+"@1"))
	stream := record(t, h, zfs.SendRequest{Dataset: ds, To: "1"})
	head, rest := stream[:zfs.StreamHeadSize], stream[zfs.StreamHeadSize:]
	for name, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader} {
		got, err := io.ReadAll(zfs.NewGuard(head, wrap(bytes.NewReader(rest))))
		if err != nil || !bytes.Equal(got, rest) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(rest), err)
		}
		var moved bytes.Buffer
		if n, err := io.Copy(&moved, zfs.NewGuard(head, wrap(bytes.NewReader(rest)))); err != nil || n != int64(len(rest)) || !bytes.Equal(moved.Bytes(), rest) {
			t.Errorf("%s moved: %d bytes of %d, %v", name, n, len(rest), err)
		}
	}
	at := firstWrite(rest)
	for _, i := range []int{4, 8, 24, 25, 31, 32, 33, 36, 39, 40, 47} {
		bad := bytes.Clone(rest)
		bad[at+i] ^= 0x21
		if i == 8 {
			clear(bad[at+8 : at+16])
		}
		if _, err := io.ReadAll(zfs.NewGuard(head, bytes.NewReader(bad))); !errors.Is(err, zfs.ErrRecord) {
			t.Errorf("byte %d of a write: %v", i, err)
		}
	}
	if _, err := io.ReadAll(zfs.NewGuard(head, bytes.NewReader(rest[:len(rest)-5]))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut in the last record: %v", err)
	}
	after, err := io.ReadAll(zfs.NewGuard(head, bytes.NewReader(append(bytes.Clone(rest), "more"...))))
	if err != nil || !bytes.Equal(after, rest) {
		t.Errorf("what follows the end: %d bytes of %d, %v", len(after), len(rest), err)
	}
}

// firstWrite is where the first record with data begins.
func firstWrite(records []byte) (at int) {
	for binary.LittleEndian.Uint32(records[at:]) != 3 {
		if binary.LittleEndian.Uint32(records[at:]) == 1 {
			at += int(binary.LittleEndian.Uint32(records[at+28:])+7) &^ 7
		}
		at += zfs.StreamHeadSize
	}
	return at
}

func FuzzGuard(f *testing.F) {
	f.Add(make([]byte, 2*zfs.StreamHeadSize), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, kind uint8) {
		if len(b) < zfs.StreamHeadSize {
			return
		}
		head, rest := b[:zfs.StreamHeadSize], b[zfs.StreamHeadSize:]
		if len(rest) > 0 {
			rest[0] = kind % 8
		}
		got, err := io.ReadAll(zfs.NewGuard(head, iotest.OneByteReader(bytes.NewReader(rest))))
		if !bytes.HasPrefix(rest, got) {
			t.Errorf("%d bytes in, %d others out", len(rest), len(got))
		}
		var moved bytes.Buffer
		_, merr := io.Copy(&moved, zfs.NewGuard(head, bytes.NewReader(rest)))
		if !bytes.Equal(moved.Bytes(), got) || (merr == nil) != (err == nil) {
			t.Errorf("bytes by bytes %d and %v, at once %d and %v", len(got), err, moved.Len(), merr)
		}
	})
}
