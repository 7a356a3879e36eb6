package tree

import (
	"encoding/hex"
	"hash/fnv"
	"slices"

	"github.com/zeebo/blake3"
)

// ChunkSize is the size of every chunk of a file but the last. Chunks are cut at
// fixed offsets, as ZFS records are: an overwrite in place changes one chunk.
const ChunkSize = 128 << 10

// BlockSize is the unit in which zeros inside a chunk become a hole again.
const BlockSize = 4 << 10

// inlineRefs is how many chunks an entry holds itself; listRefs how many a list
// object holds. A file of up to 4 MiB needs no list.
const (
	inlineRefs = 32
	listRefs   = 1024
)

// Hash is the BLAKE3-256 of a chunk or of an object's payload. Zero is "none".
type Hash [32]byte

// String is the hexadecimal form.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero tells whether h names nothing.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText and UnmarshalText give the hexadecimal form; "" is zero.
func (h Hash) MarshalText() ([]byte, error) {
	if h.IsZero() {
		return nil, nil
	}
	return []byte(h.String()), nil
}

// UnmarshalText is the inverse of MarshalText.
func (h *Hash) UnmarshalText(b []byte) error {
	*h = Hash{}
	if len(b) == 0 {
		return nil
	}
	if len(b) != 2*len(h) {
		return errMalformed("hash of %d characters", len(b))
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// Sum hashes a chunk or payload.
func Sum(b []byte) Hash { return blake3.Sum256(b) }

// Kind is the type of a node.
type Kind uint8

// Kinds of nodes. Sockets are not stored: they mean nothing without their process.
const (
	File Kind = 1 + iota
	Dir
	Symlink
	Fifo
	CharDevice
	BlockDevice
	kindEnd
)

// Xattr is one extended attribute with its full name ("user.x").
type Xattr struct {
	Name  string
	Value []byte
}

// Ref is one chunk of a file. The zero Hash is a hole.
type Ref struct {
	Hash Hash
	// Zeros marks a chunk that holds a zero block, to be written sparsely.
	Zeros bool
}

// Entry is one node with its name and metadata.
type Entry struct {
	Name     string // empty for the root
	Kind     Kind
	Mode     uint32 // permission bits, setuid, setgid, sticky
	UID, GID uint32
	MTime    int64 // ns since 1970
	Size     int64 // files: bytes
	Rdev     uint64
	Target   string // of a symlink
	// Link is the path of the first name of a file that has several, in walk order.
	Link   string
	Xattrs []Xattr // sorted by name
	Refs   []Ref   // of a small file
	Lists  []Hash  // of a large one: list objects in order
	Child  Hash    // of a directory
	Bytes  int64   // stored bytes: of a file, or of all below a directory
	Nodes  int64   // nodes below and including this one
}

// ChunkLen is the length of chunk i of a file of size bytes.
func ChunkLen(size int64, i int) int {
	return int(min(ChunkSize, size-int64(i)*ChunkSize))
}

// ChunkCount is how many chunks a file of size bytes has.
func ChunkCount(size int64) int { return int((size + ChunkSize - 1) / ChunkSize) }

// Getter reads an object's payload.
type Getter func(Hash) ([]byte, error)

// Putter takes a new object. The payload belongs to the receiver of the call.
type Putter func(Hash, []byte) error

// MaxFile is the size in bytes of the largest file that a tree can hold, 16 TiB: holes cost
// nothing on the disk, so that a file of any size is made with one call.
const MaxFile = 1 << 44

// Run is some of a file's chunks in a row.
type Run struct {
	First int // number of the first
	Refs  []Ref
	Hole  bool // all of them are
}

// Fill gives a file of e.Size bytes its chunks, in lists when there are many, and counts its
// bytes. read is called for one run of them after the other, and sets each that is no hole, or
// reports that all are; refs are read's until it returns.
func (e *Entry) Fill(put Putter, read func(first int, refs []Ref) (hole bool, err error)) error {
	e.Refs, e.Lists, e.Bytes = nil, nil, 0
	count := ChunkCount(e.Size)
	if count <= inlineRefs {
		e.Refs = make([]Ref, count)
		_, err := e.fill(0, e.Refs, read)
		return err
	}
	buf := make([]Ref, listRefs)
	var nothing Hash // of a list of holes
	for first := 0; first < count; first += listRefs {
		refs := buf[:min(listRefs, count-first)]
		hole, err := e.fill(first, refs, read)
		if err != nil {
			return err
		}
		h := nothing
		if full := hole && len(refs) == listRefs; !full || nothing.IsZero() {
			if h, err = putObject(encodeList(refs), put); err != nil {
				return err
			}
			if full {
				nothing = h
			}
		}
		e.Lists = append(e.Lists, h)
	}
	return nil
}

func (e *Entry) fill(first int, refs []Ref, read func(first int, refs []Ref) (bool, error)) (hole bool, err error) {
	clear(refs)
	if hole, err = read(first, refs); hole || err != nil {
		return hole, err
	}
	for i := range refs {
		if !refs[i].Hash.IsZero() {
			e.Bytes += int64(ChunkLen(e.Size, first+i))
		}
	}
	return false, nil
}

// Runs calls fn for one run of the file's chunks after the other, and checks that they fit
// its size. fn must not keep a run.
func (e *Entry) Runs(get Getter, fn func(Run) error) error {
	count := ChunkCount(e.Size)
	if len(e.Lists) == 0 {
		if len(e.Refs) != count {
			return errMalformed("file %q of %d bytes with %d chunks", e.Name, e.Size, len(e.Refs))
		}
		return fn(Run{Refs: e.Refs})
	}
	if len(e.Lists) != (count+listRefs-1)/listRefs {
		return errMalformed("file %q of %d bytes with %d lists", e.Name, e.Size, len(e.Lists))
	}
	var run Run
	for i, h := range e.Lists {
		if i == 0 || h != e.Lists[i-1] { // those of a hole are all the same
			refs, err := readList(h, get)
			if err != nil {
				return err
			}
			run.Refs, run.Hole = refs, !slices.ContainsFunc(refs, func(r Ref) bool { return !r.Hash.IsZero() })
		}
		if run.First = i * listRefs; len(run.Refs) != min(listRefs, count-run.First) {
			return errMalformed("file %q of %d bytes with %d chunks from %d on", e.Name, e.Size, len(run.Refs), run.First)
		}
		if err := fn(run); err != nil {
			return err
		}
	}
	return nil
}

// RefsAt gives the chunks of the run that Runs has at first, nil behind the file's end. It
// does not check them.
func (e *Entry) RefsAt(first int, get Getter) ([]Ref, error) {
	switch i := first / listRefs; {
	case i < len(e.Lists):
		return readList(e.Lists[i], get)
	case i == 0:
		return e.Refs, nil
	}
	return nil, nil
}

// SameRun tells whether another file has the same run at first, without reading it. False
// says nothing.
func (e *Entry) SameRun(first int, other *Entry) bool {
	i := first / listRefs
	return i < len(e.Lists) && i < len(other.Lists) && e.Lists[i] == other.Lists[i]
}

func readList(h Hash, get Getter) ([]Ref, error) {
	payload, err := get(h)
	if err != nil {
		return nil, err
	}
	return DecodeList(payload)
}

// PutDir stores a directory's entries, which must be sorted by name, and returns
// its hash. Segments end at names chosen by their own hash, so that adding one
// entry to a directory of 100,000 rewrites a few hundred, not all.
func PutDir(entries []Entry, put Putter) (h Hash, bytes, nodes int64, err error) {
	var segments []Hash
	buf := []byte{kindSegment}
	for i := range entries {
		buf = appendEntry(buf, &entries[i])
		bytes += entries[i].Bytes
		nodes += entries[i].Nodes
		if i < len(entries)-1 && !endsSegment(entries[i].Name, len(buf)) {
			continue
		}
		s, err := putObject(buf, put)
		if err != nil {
			return Hash{}, 0, 0, err
		}
		segments, buf = append(segments, s), []byte{kindSegment}
	}
	h, err = putObject(encodeDir(segments, bytes, nodes), put)
	return h, bytes, nodes, err
}

func endsSegment(name string, size int) bool {
	f := fnv.New32a()
	_, _ = f.Write([]byte(name)) // never fails
	return f.Sum32()%128 == 0 || size > maxPayload/4
}

// PutRoot stores the root: the entry of the top directory, without a name.
func PutRoot(e Entry, put Putter) (Hash, error) {
	e.Name = ""
	return putObject(appendEntry([]byte{kindRoot}, &e), put)
}

// Root reads a root object.
func Root(h Hash, get Getter) (Entry, error) {
	payload, err := get(h)
	if err != nil {
		return Entry{}, err
	}
	return DecodeRoot(payload)
}

// ReadDir gives all entries of a directory, sorted by name. The zero hash is the
// empty directory.
func ReadDir(h Hash, get Getter) ([]Entry, error) {
	if h.IsZero() {
		return nil, nil
	}
	payload, err := get(h)
	if err != nil {
		return nil, err
	}
	segments, err := DecodeDir(payload)
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, s := range segments {
		part, err := readSegment(s, get)
		if err != nil {
			return nil, err
		}
		if len(all) > 0 && part[0].Name <= all[len(all)-1].Name {
			return nil, errMalformed("directory out of order at %q", part[0].Name)
		}
		all = append(all, part...)
	}
	return all, nil
}

func readSegment(h Hash, get Getter) ([]Entry, error) {
	payload, err := get(h)
	if err != nil {
		return nil, err
	}
	return DecodeSegment(payload)
}

func putObject(payload []byte, put Putter) (Hash, error) {
	h := Sum(payload)
	return h, put(h, payload)
}
