package tree

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// memory is a store of objects.
type memory map[Hash][]byte

func (m memory) put(h Hash, b []byte) error { m[h] = bytes.Clone(b); return nil }

func (m memory) get(h Hash) ([]byte, error) {
	b, ok := m[h]
	if !ok {
		return nil, errors.New("missing")
	}
	return b, nil
}

func genHash(t *rapid.T) Hash {
	return Sum([]byte(rapid.StringN(1, 8, -1).Draw(t, "hash")))
}

func genEntry(t *rapid.T) Entry {
	e := Entry{
		Name: rapid.StringMatching(`[a-z\x80-\xff ]{1,12}`).Draw(t, "name"), Kind: Kind(rapid.IntRange(1, 6).Draw(t, "kind")),
		Mode: uint32(rapid.IntRange(0, 0o7777).Draw(t, "mode")), UID: rapid.Uint32().Draw(t, "uid"), GID: rapid.Uint32().Draw(t, "gid"),
		MTime: rapid.Int64().Draw(t, "mtime"), Bytes: int64(rapid.IntRange(0, 1<<40).Draw(t, "bytes")), Nodes: 1,
	}
	if (e.Kind == File || e.Kind == Dir) && rapid.Bool().Draw(t, "xattr") {
		e.Xattrs = []Xattr{{Name: "user.a", Value: []byte("1")}, {Name: "user.b", Value: []byte{}}}
	}
	switch e.Kind {
	case File:
		e.Size = int64(rapid.IntRange(0, 10*ChunkSize).Draw(t, "size"))
		for range ChunkCount(e.Size) {
			r := Ref{}
			if rapid.Bool().Draw(t, "data") {
				r = Ref{Hash: genHash(t), Zeros: rapid.Bool().Draw(t, "zeros")}
			}
			e.Refs = append(e.Refs, r)
		}
	case Dir:
		e.Child, e.Nodes = genHash(t), 7
	case Symlink:
		e.Target = "../x"
	default:
		e.Rdev = rapid.Uint64().Draw(t, "rdev")
		e.Link = rapid.SampledFrom([]string{"", "a/b"}).Draw(t, "link")
	}
	return e
}

func TestDirectoriesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfNDistinct(rapid.Custom(genEntry), 0, 40, func(e Entry) string { return e.Name }).Draw(t, "entries")
		slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
		m := memory{}
		h, _, _, err := PutDir(list, m.put)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadDir(h, m.get)
		if err != nil || len(got) != len(list) || len(list) > 0 && !reflect.DeepEqual(got, list) {
			t.Fatalf("%v\nwant %+v\ngot  %+v", err, list, got)
		}
	})
}

// TestOneChangeTouchesOneSegment: the cost of a snapshot follows the change.
func TestOneChangeTouchesOneSegment(t *testing.T) {
	var list []Entry
	for i := range 100_000 {
		list = append(list, Entry{Name: "f" + string(rune('a'+i%26)) + strings.Repeat("x", i%7) + Hash{byte(i), byte(i >> 8), byte(i >> 16)}.String()[:6], Kind: File, Nodes: 1})
	}
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	m := memory{}
	if _, _, _, err := PutDir(list, m.put); err != nil {
		t.Fatal(err)
	}
	list[50_000].Mode = 0o600
	var fresh, size int
	if _, _, _, err := PutDir(list, func(h Hash, b []byte) error {
		if _, ok := m[h]; !ok {
			fresh, size = fresh+1, size+len(b)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if fresh != 2 || size > 200<<10 {
		t.Errorf("%d new objects of %d bytes for one change among 100,000", fresh, size)
	}
}

func TestLargeFilesUseLists(t *testing.T) {
	m, e := memory{}, Entry{Kind: File, Name: "big", Size: 5000 * ChunkSize}
	refs := make([]Ref, 5000)
	for i := range refs {
		refs[i].Hash = Sum([]byte{byte(i), byte(i >> 8)})
	}
	err := e.Fill(m.put, func(first int, run []Ref) (bool, error) { copy(run, refs[first:]); return false, nil })
	if err != nil || e.Bytes != e.Size {
		t.Fatalf("%d bytes, %v", e.Bytes, err)
	}
	var got []Ref
	err = e.Runs(m.get, func(run Run) error {
		one, err := e.RefsAt(run.First, m.get)
		if run.First != len(got) || run.Hole || !reflect.DeepEqual(one, run.Refs) || !e.SameRun(run.First, &e) {
			t.Errorf("run at %d", run.First)
		}
		got = append(got, run.Refs...)
		return err
	})
	if err != nil || !reflect.DeepEqual(got, refs) || len(e.Lists) != 5 {
		t.Errorf("%d lists, %v", len(e.Lists), err)
	}
	for _, size := range []int64{e.Size + 1, e.Size - ChunkSize, 1, MaxFile} {
		e.Size = size
		if err := e.Runs(m.get, func(Run) error { return nil }); !errors.Is(err, ErrMalformed) {
			t.Errorf("a size that does not fit, %d: %v", size, err)
		}
	}
	e.Size = 10_000*ChunkSize - 1
	err = e.Fill(m.put, func(first int, run []Ref) (bool, error) {
		if first == 4*listRefs {
			run[7].Hash = Sum([]byte("x"))
		}
		return first != 4*listRefs, nil
	})
	if err != nil || e.Bytes != ChunkSize || e.Lists[0] != e.Lists[8] || e.Lists[0] == e.Lists[4] || e.Lists[0] == e.Lists[9] {
		t.Errorf("%d bytes, lists %v, %v", e.Bytes, e.Lists, err)
	}
	err = e.Runs(m.get, func(run Run) error {
		if run.Hole == (run.First == 4*listRefs) {
			t.Errorf("at %d: a hole %v", run.First, run.Hole)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	huge := appendEntry([]byte{kindSegment}, &Entry{Kind: File, Name: "f", Size: MaxFile + 1})
	if _, err := DecodeSegment(huge); !errors.Is(err, ErrMalformed) {
		t.Errorf("a file larger than any: %v", err)
	}
}

func TestHostileAttributes(t *testing.T) {
	for kind := File; kind < kindEnd; kind++ {
		e := Entry{Kind: kind, Name: "n", Target: "x", Xattrs: []Xattr{{Name: "user.x"}}}
		_, err := DecodeSegment(appendEntry([]byte{kindSegment}, &e))
		if may := kind == File || kind == Dir; may != (err == nil) {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
}

func TestHostileNames(t *testing.T) {
	for _, name := range []string{"..", ".", "a/b", "/etc", "a\x00b", "", strings.Repeat("x", 256)} {
		bad := appendEntry([]byte{kindSegment}, &Entry{Kind: Fifo, Name: name})
		if _, err := DecodeSegment(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for _, link := range []string{"../x", "/x", "a//b", "a/../b", "a/."} {
		bad := appendEntry([]byte{kindSegment}, &Entry{Kind: File, Name: "f", Link: link})
		if _, err := DecodeSegment(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("link %q: %v", link, err)
		}
	}
	twice := appendEntry(appendEntry([]byte{kindSegment}, &Entry{Kind: Fifo, Name: "b"}), &Entry{Kind: Fifo, Name: "a"})
	if _, err := DecodeSegment(twice); !errors.Is(err, ErrMalformed) {
		t.Errorf("unsorted: %v", err)
	}
}

// FuzzChildren: any payload is refused or canonical, and nothing panics.
func FuzzChildren(f *testing.F) {
	m := memory{}
	list := []Entry{
		{Name: "d", Kind: Dir, Child: Sum(nil), Nodes: 3}, {Name: "f", Kind: File, Size: 5, Refs: []Ref{{Hash: Sum(nil)}}},
		{Name: "s", Kind: Symlink, Target: "x"}, {Name: "x", Kind: Fifo, Xattrs: []Xattr{{Name: "user.a", Value: []byte("b")}}},
	}
	h, _, _, _ := PutDir(list, m.put)
	_, _ = PutRoot(Entry{Kind: Dir, Child: h, Nodes: 5}, m.put)
	for _, b := range m {
		f.Add(b)
	}
	f.Add(encodeList([]Ref{{}, {Hash: Sum(nil), Zeros: true}}))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if _, _, err := Children(payload); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if payload[0] != kindSegment {
			return
		}
		entries, err := DecodeSegment(payload)
		if err != nil {
			t.Fatal(err)
		}
		again := []byte{kindSegment}
		for i := range entries {
			if !ValidName(entries[i].Name) {
				t.Fatalf("accepted name %q", entries[i].Name)
			}
			again = appendEntry(again, &entries[i])
		}
		if !bytes.Equal(again, payload) {
			t.Fatalf("not canonical:\n%x\n%x", payload, again)
		}
	})
}
