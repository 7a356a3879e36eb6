package zfs_test

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/zfs"
)

func parts(list []zfs.Record) (out []string) {
	for _, r := range list {
		n, p, v, s := r.Parts()
		out = append(out, fmt.Sprintf("%s|%s|%s|%s", n, p, v, s))
	}
	return out
}

func TestRecords(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil,
		"a/b\tguid\t12\t-\na/b\ttarn:x\tv\tlocal\n":                                      {"a/b|guid|12|-", "a/b|tarn:x|v|local"},
		"a\tmountpoint\t/m\tinherited from a\n":                                          {"a|mountpoint|/m|inherited"},
		"a\ttarn:x\twith\ttab\tlocal\n":                                                  {"a|tarn:x|with\ttab|local"},
		"a\ttarn:x\tline\nline2\treceived\na\ttarn:y\t\tlocal\n":                         {"a|tarn:x|line\nline2|received", "a|tarn:y||local"},
		"a\ttarn:x\tends in local\tlocal\n\nreally\tlocal\n":                             {"a|tarn:x|ends in local\tlocal\n\nreally|local"},
		"a@1\tguid\t5\t-\na@1\tuserrefs\t0\t-\n":                                         {"a@1|guid|5|-", "a@1|userrefs|0|-"},
		"a\tguid\t1\t-\na\ttarn:x\tv\tlocal\na\tguid\t2\tlocal\n":                        {"a|guid|1|-", "a|tarn:x|v|local"},
		"a\ttarn:x\t-\t-\na/b c\tguid\t2\t-\na/b c/d\ttarn:x\ty\tinherited from a/b c\n": {"a|tarn:x|-|-", "a/b c|guid|2|-", "a/b c/d|tarn:x|y|inherited"},
		"a\ttarn:x\tv\treceived\na\ttarn:role\tp\tlocal\na\ttarn:role\t-\t-":             {"a|tarn:x|v|received", "a|tarn:role||ambiguous"},
	} {
		got, err := zfs.ParseRecords(in)
		if err != nil || !reflect.DeepEqual(parts(got), want) {
			t.Errorf("%q: %q, %v, want %q", in, parts(got), err, want)
		}
	}
	for _, bad := range []string{"x", "a\tb", "a\tguid\t1", "a\tguid\t1\tsomewhere", "a\tUPPER\t1\t-"} {
		if got, err := zfs.ParseRecords(bad); err == nil {
			t.Errorf("%q: %q", bad, parts(got))
		}
	}
}

// TestForgedRecord: whatever the value of one property is, it cannot give another one a
// local value.
func TestForgedRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOf(rapid.SampledFrom([]string{"\n", "\t", "a/b", "tarn:role", "primary", "local", "-", "received", "x", "a/c", "guid", "\x00"})).Draw(t, "value")
		value := strings.Join(pieces, "")
		out := "a/b\tguid\t7\t-\na/b\ttarn:evil\t" + value + "\treceived\na/b\ttarn:role\t-\t-\n"
		list, err := zfs.ParseRecords(out)
		if err != nil {
			return // seen as unreadable
		}
		for _, r := range list {
			name, property, _, source := r.Parts()
			if name == "a/b" && property == "tarn:role" && source == zfs.SourceLocal {
				t.Fatalf("%q became %q", out, parts(list))
			}
			if name == "a/b" && property == "guid" && source != zfs.SourceNone {
				t.Fatalf("%q became %q", out, parts(list))
			}
		}
	})
}

func FuzzRecords(f *testing.F) {
	f.Add("a/b\tguid\t12\t-\na/b\ttarn:x\tv\tlocal\n")
	f.Add("a\ttarn:x\tline\nline2\treceived\na\ttarn:y\t\tlocal\n")
	f.Fuzz(func(t *testing.T, in string) {
		list, err := zfs.ParseRecords(in)
		seen := map[string]bool{}
		for _, r := range list {
			name, property, _, _ := r.Parts()
			if key := name + "\t" + property; err == nil && seen[key] {
				t.Errorf("%q twice", key)
			} else {
				seen[key] = true
			}
		}
	})
}

func TestVersionLines(t *testing.T) {
	got, err := zfs.ParseVersions("a/b@1\t18446744073709551615\t12\t1795672224\t3\na/b#m\t5\t12\t1795672224\t-\na/b@with space\t5\t13\t1795672224\t0\na/b@%recv\t5\t1\t1\t0\n")
	want := []zfs.Version{
		{Kind: zfs.KindSnapshot, Dataset: "a/b", Name: "1", GUID: 18446744073709551615, CreateTXG: 12, Creation: time.Unix(1795672224, 0), UserRefs: 3},
		{Kind: zfs.KindBookmark, Dataset: "a/b", Name: "m", GUID: 5, CreateTXG: 12, Creation: time.Unix(1795672224, 0)},
		{Kind: zfs.KindSnapshot, Dataset: "a/b", Name: "with space", GUID: 5, CreateTXG: 13, Creation: time.Unix(1795672224, 0)},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"a@1\t1\n", "a@1\tx\t1\t1\t1\n", "a@1\t1\t-1\t1\t1\n", "a@1\t1\t1\t1\tmany\n"} {
		if got, err := zfs.ParseVersions(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestSmallParsers(t *testing.T) {
	holds, err := zfs.ParseHolds("a@1\ttag\tThu Nov 26 05:47 2026\na@1\tother\t1795672224\n")
	if err != nil || len(holds) != 2 || holds[0].Created.Unix() != 1795672020 || holds[1].Created.Unix() != 1795672224 {
		t.Errorf("%+v, %v", holds, err)
	}
	if _, err := zfs.ParseHolds("a@1\ttag\tyesterday\n"); err == nil {
		t.Error("a time was made up")
	}
	for in, want := range map[string]int64{"full\ta@1\t100\nsize\t100\n": 100, "size\t18446744073170717728\n": 0, "warning\nsize\t0\n": 0} {
		if n, err := zfs.ParseEstimate(in); err != nil || n != want {
			t.Errorf("%q: %d, %v", in, n, err)
		}
	}
	for in, want := range map[string]int64{"504M": 504 << 20, "1.5G": 3 << 29, "0": 0, "17B": 17, "-": 0, "1K": 1024} {
		if n, err := zfs.Size(in); err != nil || n != want {
			t.Errorf("%q: %d, %v", in, n, err)
		}
	}
	for _, bad := range []string{"", "M", "x", "-1G", "1e300E"} {
		if n, err := zfs.Size(bad); err == nil {
			t.Errorf("%q: %d", bad, n)
		}
	}
	for in, want := range map[string]int{"zfs-2.3.9-0+deb13u1\nzfs-kmod-2.3.9\n": 203, "zfs-0.8.3-1": 8, "zfs-2.1.11": 201, "zfs-2.4.0-rc1": 204, "rubbish": 0, "zfs-2.2.4-1~bpo12+1\nzfs-kmod-2.1.11-1+deb12u1\n": 201, "zfs-2.1.5\nzfs-kmod-2.2.0\n": 201} {
		if _, n := zfs.ReadVersion(in); n != want {
			t.Errorf("%q: %d, want %d", in, n, want)
		}
	}
	pools, err := zfs.ParsePools("p\t9940455299572879884\tONLINE\t504M\t503M\nno pools available\n", false)
	if p := pools["p"]; err != nil || p.GUID != 9940455299572879884 || p.Size != 504<<20 || p.Free != 503<<20 || len(pools) != 1 {
		t.Errorf("%+v, %v", pools, err)
	}
	features := zfs.ReadFeatures("a\tfeature@bookmarks\tactive\na\tfeature@encryption\tdisabled\nb\tfeature@bookmarks\tenabled\n")
	if len(features) != 2 {
		t.Errorf("%+v", features)
	}
}

// TestUsage reads flags out of the usage texts of two versions.
func TestUsage(t *testing.T) {
	const old = "usage:\n\n\tsend [-RDp] [-[iI] snapshot] <snapshot>\n\treceive [-vnF] <filesystem|volume|snapshot>\n\tlist [-rH][-d max] [-o property[,...]]\n\t    [-S property] ... [filesystem]\n"
	const modern = "usage:\n\tsend [-DLPbcehnpsVvw] [-i|-I snapshot]\n\t     [-R [-X dataset[,dataset]...]]     <snapshot>\n\tsend [-nVvPe] -t <receive_resume_token>\n\tlist [-Hp] [-j [--json-int]] [-r|-d max]\n\tholds [-rHp] <snapshot> ...\n"
	for _, c := range []struct {
		usage, verb string
		flag        byte
		want        bool
	}{
		{old, "send", 'p', true}, {old, "send", 'n', false}, {old, "send", 'c', false}, {old, "list", 'p', false}, {old, "list", 'H', true},
		{modern, "send", 'n', true}, {modern, "send", 'w', true}, {modern, "send", 'c', true}, {modern, "list", 'p', true}, {modern, "holds", 'p', true}, {modern, "receive", 's', false},
	} {
		if got := zfs.HasFlag(c.usage, c.verb, c.flag); got != c.want {
			t.Errorf("%s -%c: %v", c.verb, c.flag, got)
		}
	}
}

func TestChunks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,30}`), 1, 50).Draw(t, "names")
		limit := rapid.IntRange(1, 200).Draw(t, "limit")
		var all []string
		for _, part := range zfs.Chunks(names, limit) {
			if joined := strings.Join(part, ","); len(part) == 0 || len(part) > 1 && len(joined) > limit {
				t.Fatalf("part of %d bytes, limit %d", len(joined), limit)
			}
			all = append(all, part...)
		}
		if !reflect.DeepEqual(all, names) {
			t.Fatalf("%q became %q", names, all)
		}
	})
}

// realToken is of OpenZFS 2.3.9: a full stream of a/fs@4, cut after 19,874,176 bytes.
const realToken = "1-9f675c00e-b0-789c636064000310a500c4ec50360710e72765a526973030b0409460caa7a515a7968064fec0e5d990e4932a4b528b817483a33e2336fd25f9e9a59929403dc7eb82ffad35b9822ccf0996cf4bcc4d656048d44f2b763081b80100adc01547"

func TestToken(t *testing.T) {
	info, err := zfs.ParseToken(realToken)
	if want := (zfs.TokenInfo{ToGUID: 0xd434adfe537ec706, ToName: "a/fs@4", Bytes: 0x12f4180}); err != nil || info != want {
		t.Errorf("%+v, %v", info, err)
	}
	for i := range realToken {
		bad := []byte(realToken)
		if bad[i] == '0' {
			bad[i] = '1'
		} else {
			bad[i] = '0'
		}
		if info, err := zfs.ParseToken(string(bad)); err == nil {
			t.Errorf("character %d changed: %+v", i, info)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add(realToken)
	f.Add("1-0-0-")
	f.Fuzz(func(t *testing.T, token string) {
		info, err := zfs.ParseToken(token)
		if err != nil {
			return
		}
		if _, _, err := zfs.ValidateSnapshot(info.ToName); err != nil || info.ToGUID == 0 {
			t.Errorf("%q: %+v", token, info)
		}
	})
}

func TestStreamFlags(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := func(n string) bool { return rapid.Bool().Draw(t, n) }
		f := zfs.StreamFlags{Raw: b("raw"), LargeBlocks: b("large"), Compressed: b("compressed"), Embedded: b("embedded")}
		if got, err := zfs.ParseStreamFlags(f.String()); err != nil || got != f {
			t.Fatalf("%q: %+v, %v", f, got, err)
		}
		caps := func(n string) zfs.StreamFlags {
			return zfs.Capabilities{Compressed: b(n + "c"), LargeBlocks: b(n + "l"), EmbeddedData: b(n + "e"), Raw: b(n + "r")}.StreamFlags()
		}
		from, to, encrypted := caps("from"), caps("to"), b("encrypted")
		got, err := zfs.NegotiateFlags(from, to, encrypted)
		switch {
		case encrypted && err == nil && (!got.Raw || !from.Raw || !to.Raw):
			t.Fatalf("an encrypted dataset would travel in clear: %+v", got)
		case !encrypted && (err != nil || got.Raw):
			t.Fatalf("%+v, %v", got, err)
		case got.Compressed && !(from.Compressed && to.Compressed), got.LargeBlocks && !(from.LargeBlocks && to.LargeBlocks):
			t.Fatalf("%+v for %+v and %+v", got, from, to)
		case got.Embedded && (encrypted || from.Raw || to.Raw):
			t.Fatal("embedded data with encryption")
		case !got.Within(from), !got.Within(to):
			t.Fatalf("%v is beyond %v or %v", got, from, to)
		}
	})
	for _, bad := range []string{"", "raw+compressed", "plain+raw", "raw+raw", "fast", "Raw"} {
		if f, err := zfs.ParseStreamFlags(bad); err == nil {
			t.Errorf("%q: %+v", bad, f)
		}
	}
}

// head builds the first record of a stream.
func head(order binary.ByteOrder, change func(b []byte, order binary.ByteOrder)) []byte {
	b := make([]byte, zfs.StreamHeadSize)
	order.PutUint64(b[8:], 0x2F5bacbac)
	order.PutUint64(b[16:], 1|1<<2<<22) // one filesystem, compressed
	order.PutUint32(b[32:], 2)
	order.PutUint64(b[40:], 77)
	copy(b[56:], "a/b@1")
	if change != nil {
		change(b, order)
	}
	return b
}

func TestStreamHeader(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		h, err := zfs.ParseStreamHeader(head(order, nil))
		if err != nil || h.ToGUID != 77 || h.FromGUID != 0 || h.ToName != "a/b@1" || h.Flags != (zfs.StreamFlags{Compressed: true}) || h.Acceptable(77) != nil {
			t.Errorf("%+v, %v", h, err)
		}
		if h.Acceptable(78) == nil {
			t.Error("another snapshot than asked for was accepted")
		}
		for name, change := range map[string]func(b []byte, o binary.ByteOrder){
			"properties":  func(b []byte, o binary.ByteOrder) { o.PutUint64(b[16:], 2) },
			"clone":       func(b []byte, o binary.ByteOrder) { o.PutUint32(b[36:], 1) },
			"volume":      func(b []byte, o binary.ByteOrder) { o.PutUint32(b[32:], 3) },
			"dedup":       func(b []byte, o binary.ByteOrder) { o.PutUint64(b[16:], 1|1<<2) },
			"holds":       func(b []byte, o binary.ByteOrder) { o.PutUint64(b[16:], 1|1<<28) },
			"no snapshot": func(b []byte, o binary.ByteOrder) { o.PutUint64(b[40:], 0) },
		} {
			if h, err := zfs.ParseStreamHeader(head(order, change)); err != nil || h.Acceptable(0) == nil {
				t.Errorf("%s: %+v, %v", name, h, err)
			}
		}
		for name, change := range map[string]func(b []byte, o binary.ByteOrder){
			"magic":        func(b []byte, o binary.ByteOrder) { b[9]++ },
			"record":       func(b []byte, o binary.ByteOrder) { o.PutUint32(b, 1) },
			"kind":         func(b []byte, o binary.ByteOrder) { o.PutUint64(b[16:], 3) },
			"endless name": func(b []byte, o binary.ByteOrder) { copy(b[56:], strings.Repeat("x", 256)) },
			"payload":      func(b []byte, o binary.ByteOrder) { o.PutUint32(b[4:], 8) },
		} {
			if h, err := zfs.ParseStreamHeader(head(order, change)); err == nil {
				t.Errorf("%s: %+v", name, h)
			}
		}
	}
}

func FuzzStreamHeader(f *testing.F) {
	f.Add(head(binary.LittleEndian, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := zfs.ParseStreamHeader(b)
		if err == nil && len(h.ToName) >= 256 {
			t.Errorf("%+v", h)
		}
	})
}
