package zfs

import (
	"io"
	"os"
	"strconv"
	"time"
)

// GUID is the identity of a dataset, snapshot or bookmark; the same on every
// pool that received the snapshot. Zero is "none".
type GUID uint64

// String is the decimal form that zfs prints with -p.
func (g GUID) String() string { return strconv.FormatUint(uint64(g), 10) }

// Source tells where a property's value comes from. Rules about tarn:* marks
// accept SourceLocal only: received and inherited values are other people's.
type Source string

// The sources that zfs get prints.
const (
	SourceNone      Source = "-"
	SourceDefault   Source = "default"
	SourceLocal     Source = "local"
	SourceInherited Source = "inherited"
	SourceReceived  Source = "received"
)

// Property is one value with its source.
type Property struct {
	Value  string
	Source Source
}

// Native property names that both engines implement. User properties have a
// colon in their name, lower case, at most 256 bytes; values at most 8 KiB.
const (
	PropQuota      = "quota"      // bytes, "none" or "0" for no limit
	PropRefQuota   = "refquota"   // the same, of what the head refers to: snapshots do not count
	PropReadOnly   = "readonly"   // on or off
	PropCanMount   = "canmount"   // on, off or noauto
	PropMountpoint = "mountpoint" // absolute path, or none
	PropATime      = "atime"      // on or off; dirzfs never keeps access times

	PropEncryption  = "encryption"  // a cipher, on or off; at creation only
	PropKeyFormat   = "keyformat"   // raw: 32 bytes
	PropKeyLocation = "keylocation" // file:///path

	propSnapshotsChanged = "snapshots_changed" // OpenZFS 2.2
)

// Dataset is a filesystem as zfs get shows it at one moment. Sizes are bytes.
type Dataset struct {
	Name       string
	GUID       GUID
	CreateTXG  uint64
	Mounted    bool
	Mountpoint string // where it is or would be mounted; "" for none
	ReadOnly   bool
	Origin     string // snapshot this is a clone of, "" if none
	Used       int64
	Referenced int64
	Available  int64
	Quota      int64 // 0 for none
	RefQuota   int64 // of what the head refers to; 0 for none
	// Written is the bytes changed since the newest snapshot; 0 means the head
	// equals it. -1 where the version cannot tell. Real ZFS shows the last transaction
	// group: what was written since (5 s, more on a busy pool) is seen after Sync only.
	Written int64
	// SnapshotsChanged is when a snapshot was taken or destroyed last, to the second by the
	// host's wall clock (OpenZFS 2.2 and newer); zero where nobody knows. A snapshot that is
	// renamed does not show.
	SnapshotsChanged time.Time
	// Encrypted datasets are sent raw. KeyLoaded tells whether they can be mounted.
	Encrypted bool
	KeyLoaded bool
	// EncryptionRoot is the dataset whose key it is: itself, or one that it inherits
	// from; "" when it is not encrypted.
	EncryptionRoot string
	// ResumeToken is set while a resumable receive is half done.
	ResumeToken string
	// User holds the user properties (names with a colon).
	User map[string]Property
}

// VersionKind tells a snapshot from a bookmark.
type VersionKind int

// Kinds of Version. At equal CreateTXG a bookmark sorts before its snapshot.
const (
	KindBookmark VersionKind = iota
	KindSnapshot
)

// Version is a point in a dataset's history.
type Version struct {
	Kind      VersionKind
	Dataset   string
	Name      string // after the @ or #
	GUID      GUID
	CreateTXG uint64
	Creation  time.Time // by the clock of the host that took it; for display
	UserRefs  int       // holds on it; 0 for bookmarks
}

// FullName is dataset@name or dataset#name.
func (v Version) FullName() string {
	if v.Kind == KindBookmark {
		return v.Dataset + "#" + v.Name
	}
	return v.Dataset + "@" + v.Name
}

// Hold is a user reference that keeps a snapshot from being destroyed.
type Hold struct {
	Snapshot string // dataset@name
	Tag      string
	Created  time.Time
}

// PoolStatus is a pool as zpool list shows it. Sizes are bytes.
type PoolStatus struct {
	Name   string
	GUID   GUID
	Health string // ONLINE, DEGRADED, SUSPENDED, ...
	Size   int64
	Free   int64
}

// SendRequest asks for a stream. Either ResumeToken alone is set, or To and perhaps From.
type SendRequest struct {
	// Dataset to send from.
	Dataset string
	// To is the name after the @ of the snapshot to send.
	To string
	// From is "@name" or "#name" of the incremental base in the same dataset;
	// "" sends everything.
	From string
	// Flags of the stream, as negotiated for the replica. Not with ResumeToken.
	Flags StreamFlags
	// ResumeToken continues a cut receive; it carries From, To and Flags itself.
	ResumeToken string
}

// Stream is a running send. Read it to the end, then Close, which waits for the
// engine to finish and returns the sender's own error, if any: it is more
// informative than the receiver's. Close before the end cancels the send.
type Stream interface {
	io.ReadCloser
}

// Filer is a reader whose bytes come out of a file descriptor: the pipe of a Stream
// of Host, for one. Whoever moves the bytes may read the descriptor itself (splice)
// instead of calling Read, but not both at once. It is closed by its owner.
type Filer interface {
	File() *os.File
}

// Inlet is what Receive has a stream written into. Who splices into its File tells of the
// bytes with Gave, as Write does by itself.
type Inlet interface {
	io.Writer
	Filer
	Gave(n int)
}

// ReceiveRequest says where a stream goes.
type ReceiveRequest struct {
	// Target is dataset@snapshot, always explicit. A full stream creates the
	// dataset; it must not exist. There is no force: a head that does not fit is
	// an error (ErrDiverged, ErrModified), never rolled back.
	Target string
	// Expect, if not 0, is the GUID of the snapshot that the stream has to bring;
	// another is refused before anything is received.
	Expect GUID
	// Raw says that the stream has to be raw, or that it must not be: the two cannot be
	// mixed in one history, and plain data do not belong where encrypted ones are expected.
	Raw bool
	// Have are the versions of the target as they were listed a moment ago, for engines
	// that have to know them (ReceiveChecks): nil lets Receive list them, while the
	// sender waits.
	Have []Version
	// Resumable keeps what arrived of a cut stream and leaves a resume token.
	Resumable bool
	// Properties are set on a dataset that a full stream creates. The dataset is never
	// mounted by a receive; a mounted one stays mounted and shows the new head.
	Properties map[string]string
}

// TokenInfo is the content of a resume token. Tokens come from the other host:
// check ToName and ToGUID before sending from one.
type TokenInfo struct {
	FromGUID GUID // 0 for a full stream
	ToGUID   GUID
	ToName   string
	Bytes    int64 // already received
	Flags    StreamFlags
}

// Capabilities are what an engine on this host can do; the agent advertises them.
type Capabilities struct {
	Engine        string // "openzfs", "zfs-fuse" or "dirzfs"
	Version       string
	Resume        bool // resumable receive and tokens
	Bookmarks     bool
	Written       bool // Dataset.Written is measured
	MultiSnapshot bool // one atomic Snapshot call over many datasets
	HoldsListed   bool // Holds answers
	Clones        bool
	// ReceiveChecks: zfs receive itself does not see whether an increment fits.
	ReceiveChecks bool
	// ReceiveProperties says that those of a ReceiveRequest are in force from the first
	// byte on; otherwise they are set when a full stream has arrived.
	ReceiveProperties bool
	Compressed        bool // -c
	LargeBlocks       bool // -L
	EmbeddedData      bool // -e
	Raw               bool // -w, and pools that can hold what it brings
	Encryption        bool // datasets can be encrypted, and their raw streams return (2.2)
}
