package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// First byte of a payload: its kind is covered by its hash.
const (
	kindRoot    = 'R'
	kindDir     = 'D'
	kindSegment = 'S'
	kindList    = 'L'
)

// maxPayload bounds an object; MaxPayload is the same for readers of streams.
const maxPayload = 16 << 20

// MaxPayload is the largest object in bytes that a stream may carry.
const MaxPayload = maxPayload

// MaxPath is the length in bytes of the longest path that an Entry's Link may be.
const MaxPath = 1 << 16

// ErrMalformed is wrapped by every decoding error.
var ErrMalformed = errors.New("malformed tree object")

func errMalformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

func appendEntry(b []byte, e *Entry) []byte {
	b = append(b, byte(e.Kind))
	b = appendString(b, e.Name)
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendUvarint(b, uint64(e.UID))
	b = binary.AppendUvarint(b, uint64(e.GID))
	b = binary.AppendVarint(b, e.MTime)
	b = binary.AppendUvarint(b, uint64(e.Bytes))
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		b = appendString(b, x.Name)
		b = appendString(b, string(x.Value))
	}
	switch e.Kind {
	case File:
		b = appendFile(b, e)
	case Dir:
		b = binary.AppendUvarint(b, uint64(e.Nodes))
		b = append(b, e.Child[:]...)
	case Symlink:
		b = appendString(b, e.Target)
		b = appendString(b, e.Link)
	default:
		b = binary.AppendUvarint(b, e.Rdev)
		b = appendString(b, e.Link)
	}
	return b
}

func appendFile(b []byte, e *Entry) []byte {
	b = binary.AppendUvarint(b, uint64(e.Size))
	b = appendString(b, e.Link)
	b = binary.AppendUvarint(b, uint64(len(e.Refs)))
	for _, r := range e.Refs {
		b = appendRef(b, r)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Lists)))
	for _, l := range e.Lists {
		b = append(b, l[:]...)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Flag byte of a ref.
const (
	refHole  = 0
	refData  = 1
	refZeros = 2
)

func appendRef(b []byte, r Ref) []byte {
	if r.Hash.IsZero() {
		return append(b, refHole)
	}
	flag := byte(refData)
	if r.Zeros {
		flag = refZeros
	}
	return append(append(b, flag), r.Hash[:]...)
}

func encodeList(refs []Ref) []byte {
	b := binary.AppendUvarint([]byte{kindList}, uint64(len(refs)))
	for _, r := range refs {
		b = appendRef(b, r)
	}
	return b
}

func encodeDir(segments []Hash, bytes, nodes int64) []byte {
	b := binary.AppendUvarint([]byte{kindDir}, uint64(bytes))
	b = binary.AppendUvarint(b, uint64(nodes))
	for _, s := range segments {
		b = append(b, s[:]...)
	}
	return b
}

// decoder reads a payload; the first failure sticks.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = errMalformed(format, args...)
	}
	d.b = nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("ends early")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit || n > 1 && d.b[n-1] == 0 {
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.fail("bad number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) string(limit uint64) string {
	n := d.uvarint(limit)
	if n > uint64(len(d.b)) {
		d.fail("ends early")
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) hash() (h Hash) {
	if len(d.b) < len(h) {
		d.fail("ends early")
		return h
	}
	copy(h[:], d.b)
	d.b = d.b[len(h):]
	return h
}

func (d *decoder) ref() Ref {
	switch flag := d.byte(); flag {
	case refHole:
		return Ref{}
	case refData, refZeros:
		h := d.hash()
		if h.IsZero() {
			d.fail("zero hash")
		}
		return Ref{Hash: h, Zeros: flag == refZeros}
	default:
		d.fail("ref flag %d", flag)
		return Ref{}
	}
}

const (
	maxSize  = 1 << 62
	maxXattr = 64 << 10
)

func (d *decoder) entry(root bool) Entry {
	e := Entry{Kind: Kind(d.byte()), Name: d.string(255)}
	if e.Kind < File || e.Kind >= kindEnd || root && e.Kind != Dir {
		d.fail("node kind %d", e.Kind)
	}
	if d.err == nil && (root != (e.Name == "") || !root && !ValidName(e.Name)) {
		d.fail("name %q", e.Name)
	}
	e.Mode = uint32(d.uvarint(0o7777))
	e.UID = uint32(d.uvarint(1<<32 - 1))
	e.GID = uint32(d.uvarint(1<<32 - 1))
	e.MTime = d.varint()
	e.Bytes = int64(d.uvarint(maxSize))
	e.Nodes = 1
	e.Xattrs = d.xattrs()
	if len(e.Xattrs) > 0 && e.Kind != File && e.Kind != Dir {
		// Setting them would follow a symlink, or fail for ever.
		d.fail("node kind %d with attributes", e.Kind)
	}
	switch e.Kind {
	case File:
		d.file(&e)
	case Dir:
		e.Nodes = int64(d.uvarint(maxSize))
		e.Child = d.hash()
	case Symlink:
		e.Target = d.string(4095)
		if e.Target == "" || strings.IndexByte(e.Target, 0) >= 0 {
			d.fail("symlink target %q", e.Target)
		}
		e.Link = d.link()
	default:
		e.Rdev = d.uvarint(1<<64 - 1)
		e.Link = d.link()
	}
	return e
}

func (d *decoder) xattrs() []Xattr {
	n := d.uvarint(4096)
	var list []Xattr
	for range n {
		x := Xattr{Name: d.string(255), Value: []byte(d.string(maxXattr))}
		if d.err != nil {
			return nil
		}
		if x.Name == "" || strings.IndexByte(x.Name, 0) >= 0 || len(list) > 0 && list[len(list)-1].Name >= x.Name {
			d.fail("attribute %q", x.Name)
		}
		list = append(list, x)
	}
	return list
}

func (d *decoder) file(e *Entry) {
	e.Size = int64(d.uvarint(MaxFile))
	e.Link = d.link()
	for range d.uvarint(inlineRefs) {
		e.Refs = append(e.Refs, d.ref())
	}
	lists := d.uvarint(maxPayload / 32)
	for range lists {
		if d.err != nil {
			return
		}
		e.Lists = append(e.Lists, d.hash())
	}
	if len(e.Refs) > 0 && len(e.Lists) > 0 {
		d.fail("file with inline chunks and lists")
	}
}

func (d *decoder) link() string {
	l := d.string(MaxPath)
	if l != "" && !ValidPath(l) {
		d.fail("link path %q", l)
	}
	return l
}

func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	return d.err
}

// ValidName tells whether a file of this name stays in its directory.
func ValidName(n string) bool {
	return n != "" && n != "." && n != ".." && len(n) <= 255 && strings.IndexByte(n, '/') < 0 && strings.IndexByte(n, 0) < 0
}

// ValidPath tells whether p is a relative path that stays inside its tree.
func ValidPath(p string) bool {
	for _, c := range strings.Split(p, "/") {
		if !ValidName(c) {
			return false
		}
	}
	return true
}

func open(payload []byte, kind byte) *decoder {
	d := &decoder{b: payload}
	if len(payload) > maxPayload {
		d.fail("%d bytes", len(payload))
	} else if k := d.byte(); k != kind {
		d.fail("kind %q instead of %q", k, kind)
	}
	return d
}

// DecodeRoot reads a root payload.
func DecodeRoot(payload []byte) (Entry, error) {
	d := open(payload, kindRoot)
	e := d.entry(true)
	return e, d.end()
}

// DecodeDir reads a directory payload: its segments in order.
func DecodeDir(payload []byte) ([]Hash, error) {
	d := open(payload, kindDir)
	d.uvarint(maxSize)
	d.uvarint(maxSize)
	var list []Hash
	for d.err == nil && len(d.b) > 0 {
		list = append(list, d.hash())
	}
	return list, d.end()
}

// DecodeSegment reads a segment: at least one entry, sorted strictly by name.
func DecodeSegment(payload []byte) ([]Entry, error) {
	d := open(payload, kindSegment)
	var list []Entry
	for d.err == nil && len(d.b) > 0 {
		e := d.entry(false)
		if len(list) > 0 && list[len(list)-1].Name >= e.Name {
			d.fail("segment out of order at %q", e.Name)
		}
		list = append(list, e)
	}
	if d.err == nil && len(list) == 0 {
		d.fail("empty segment")
	}
	return list, d.end()
}

// DecodeList reads a list payload.
func DecodeList(payload []byte) ([]Ref, error) {
	d := open(payload, kindList)
	var list []Ref
	n := d.uvarint(listRefs)
	for range n {
		if d.err != nil {
			break
		}
		list = append(list, d.ref())
	}
	return list, d.end()
}

// Children gives what a payload of any kind refers to, with repetitions.
func Children(payload []byte) (objects, chunks []Hash, err error) {
	if len(payload) == 0 {
		return nil, nil, errMalformed("empty")
	}
	switch payload[0] {
	case kindRoot:
		e, err := DecodeRoot(payload)
		return []Hash{e.Child}, nil, err
	case kindDir:
		objects, err = DecodeDir(payload)
		return objects, nil, err
	case kindSegment:
		list, err := DecodeSegment(payload)
		for i := range list {
			objects, chunks = entryChildren(&list[i], objects, chunks)
		}
		return objects, chunks, err
	case kindList:
		refs, err := DecodeList(payload)
		return nil, appendHashes(chunks, refs), err
	}
	return nil, nil, errMalformed("kind %q", payload[0])
}

func entryChildren(e *Entry, objects, chunks []Hash) (o, c []Hash) {
	if e.Kind == Dir {
		objects = append(objects, e.Child)
	}
	return append(objects, e.Lists...), appendHashes(chunks, e.Refs)
}

func appendHashes(to []Hash, refs []Ref) []Hash {
	for _, r := range refs {
		if !r.Hash.IsZero() {
			to = append(to, r.Hash)
		}
	}
	return to
}
