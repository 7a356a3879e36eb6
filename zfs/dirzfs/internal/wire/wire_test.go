package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func frame(f *Framer, t Type, payload string) []byte {
	b := make([]byte, len(payload)+Overhead)
	copy(b[HeaderSize:], payload)
	f.Seal(t, b)
	return b
}

func sample() []byte {
	var f Framer
	all := f.Start()
	all = append(all, frame(&f, Head, "{}")...)
	all = append(all, frame(&f, Chunk, "content")...)
	all = append(all, frame(&f, Object, "")...)
	return append(all, frame(&f, End, "1")...)
}

func alloc(n int) []byte { return make([]byte, n) }

// read gives the payloads up to the end or the first error.
func read(r io.Reader) (got []string, err error) {
	w := NewReader(r, 1<<20)
	if err := w.Start(); err != nil {
		return nil, err
	}
	for {
		t, payload, err := w.Next(alloc)
		if err != nil {
			return got, err
		}
		got = append(got, string(payload))
		if t == End {
			return got, nil
		}
	}
}

func TestRoundTrip(t *testing.T) {
	got, err := read(bytes.NewReader(sample()))
	if err != nil || len(got) != 4 || got[1] != "content" || got[2] != "" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEveryCutAndFlipIsNoticed(t *testing.T) {
	all := sample()
	for i := range all {
		if _, err := read(bytes.NewReader(all[:i])); !errors.Is(err, ErrTruncated) {
			t.Errorf("cut at %d: %v", i, err)
		}
		for bit := range 8 {
			bad := bytes.Clone(all)
			bad[i] ^= 1 << bit
			if _, err := read(bytes.NewReader(bad)); err == nil {
				t.Errorf("bit %d of byte %d was not noticed", bit, i)
			}
		}
	}
	if _, err := read(bytes.NewReader(append(all, 0))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestRecordsCannotBeExchanged(t *testing.T) {
	var f Framer
	start, head := f.Start(), frame(&f, Head, "{}")
	a, b := frame(&f, Chunk, "a"), frame(&f, Chunk, "b")
	if _, err := read(bytes.NewReader(bytes.Join([][]byte{start, head, b, a}, nil))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("exchanged: %v", err)
	}
	if _, err := read(bytes.NewReader(bytes.Join([][]byte{start, head, a, a}, nil))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("repeated: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(sample())
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := read(bytes.NewReader(b))
		if err != nil && !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
