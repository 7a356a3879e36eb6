package zfs

import (
	"io"
	"time"
)

// For the tests of what is inside.
var (
	Classify      = classify
	ParseRecords  = parseRecords
	ParseVersions = parseVersions
	ParseHolds    = parseHolds
	ParseEstimate = parseEstimate
	ParsePools    = parsePools
	ReadFeatures  = readFeatures
	ReadVersion   = readVersion
	Size          = size
	Chunks        = chunks
	HasFlag       = hasFlag
)

// Record is one record of a listing.
type Record = record

// Parts of it.
func (r record) Parts() (name, property, value string, source Source) {
	return r.name, r.property, r.value, r.source
}

// Harmless judges arguments as the runner does.
func Harmless(args ...string) error { return invocation{op: "test", args: args}.harmless() }

// Acceptable judges a stream's header.
func (h StreamHeader) Acceptable(want GUID) error { return h.acceptable(want, false) }

// Stuck makes h believe that n commands of a pool cannot be ended.
func (h *Host) Stuck(pool string, n int) {
	h.stuck.mu.Lock()
	defer h.stuck.mu.Unlock()
	h.stuck.left = map[*process]struct{}{}
	for range n {
		h.stuck.left[&process{inv: invocation{op: "get", object: pool + "/x", args: []string{"get", "all", pool}}, began: time.Now()}] = struct{}{}
	}
}

// Number is the version of the tools, 203 for 2.3; 0 for zfs-fuse.
func (h *Host) Number() int { return h.build.number }

// NewGuard is what a stream for zfs-fuse goes through.
func NewGuard(head []byte, from io.Reader) io.Reader { return newGuard(head, from) }

// ErrRecord is why it stops.
var ErrRecord = errRecord

// SpliceAll moves one pipe into another.
var SpliceAll = spliceAll
