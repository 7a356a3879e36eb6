package replicate

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Bounds of the pause after a failure; doubled each time, half of it by chance.
const (
	firstPause = 100 * time.Millisecond
	longPause  = 30 * time.Second
	// shortPause bounds it where the cure comes from a peer that is just behind.
	shortPause = time.Second
)

// failure is how often one kind of action failed in a row.
type failure struct {
	count int
	until time.Time
	since time.Time
	last  time.Time
	err   error
}

func (f *failure) add(err error, now time.Time) {
	if f.count == 0 {
		f.since = now
	}
	f.count++
	f.err, f.last = err, now
	limit := longPause
	if soon(err) {
		limit = shortPause
	}
	d := min(firstPause<<min(f.count-1, 16), limit)
	f.until = now.Add(d/2 + rand.N(d/2+1))
}

// soon reports errors that end when somebody else has caught up.
func soon(err error) bool {
	return errors.Is(err, stream.ErrNothing) || errors.Is(err, stream.ErrEpoch) || errors.Is(err, stream.ErrDenied) ||
		errors.Is(err, zfs.ErrBusy) || errors.Is(err, zfs.ErrNotExist)
}

// quiet reports errors that are part of normal life: another host has not yet
// heard what this one was told.
func quiet(err error) bool {
	return errors.Is(err, stream.ErrNothing) || errors.Is(err, stream.ErrEpoch) || errors.Is(err, stream.ErrDenied) ||
		errors.Is(err, context.Canceled)
}

// quietFor is how long such errors are nobody's business.
const quietFor = 10 * time.Second

// normal reports a failure that is still part of normal life.
func (f *failure) normal() bool { return quiet(f.err) && time.Since(f.since) < quietFor }

type coded struct {
	err  error
	code tarnv1.ReplicaErrorCode
	// hint says what to do, for people.
	hint string
}

// codes map classes to what the control plane and people hear; the first wins.
func codes() []coded {
	return []coded{
		{zfs.ErrNoSpace, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE, "free space in the pool"},
		{zfs.ErrQuota, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_QUOTA_EXCEEDED, "extend the share"},
		{zfs.ErrKey, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_KEY_UNAVAILABLE, "put the share's key file there"},
		{zfs.ErrPoolUnavailable, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_POOL_UNAVAILABLE, "repair the pool"},
		{zfs.ErrHung, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STORAGE_UNRESPONSIVE, "look at the pool and the kernel's log of this host"},
		{zfs.ErrStalled, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STORAGE_UNRESPONSIVE, "look at the pool of this host; the next attempt goes on from what arrived, where the pool can"},
		{zfs.ErrToolMissing, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STORAGE_UNRESPONSIVE, "install the ZFS tools on this host"},
		{zfs.ErrStreamRefused, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STREAM_REFUSED, "look at the source host"},
		{zfs.ErrStreamFlags, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STREAM_REFUSED, "bring both hosts to versions of ZFS that fit, or create the replica anew"},
		{zfs.ErrBusy, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_BUSY, "close what is open on it"},
		{zfs.ErrDiverged, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DIVERGED, "the data are put aside before it follows again"},
		{zfs.ErrModified, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DIVERGED, "the data are put aside before it follows again"},
		{stream.ErrNoCommon, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_NO_COMMON_SNAPSHOT, "everything is sent again"},
		{zfs.ErrReadOnly, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_POOL_UNAVAILABLE, "import the pool writable"},
		{zfs.ErrStreamTruncated, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_SOURCE_UNREACHABLE, "the next attempt goes on from what arrived"},
		{zfs.ErrUnclassified, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STORAGE_UNRESPONSIVE, "what the ZFS tools say is not known to tarn: look at this host"},
		{zfs.ErrStreamCorrupt, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STREAM_CORRUPT, "check the network and both pools"},
		{stream.ErrStalled, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STALLED, "check the source's pool and the network"},
		{stream.ErrUnreachable, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_SOURCE_UNREACHABLE, "check the source host and the network"},
		{stream.ErrDenied, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_PERMISSION_DENIED, "the source does not know this replica yet"},
		{zfs.ErrPermission, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_PERMISSION_DENIED, "give the agent the right to do this"},
		{zfs.ErrUnsupported, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_UNSUPPORTED, "use an engine that can do this"},
		{zfs.ErrNotExist, tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_MISSING, "the next attempt looks again"},
	}
}

// explain turns an error into its code and one sentence.
func explain(doing kind, err error) (code tarnv1.ReplicaErrorCode, sentence string) {
	sentence = string(doing) + ": " + err.Error()
	if errors.Is(err, zfs.ErrQuota) && (doing == doPull || doing == doPullStaging) {
		// A copy has no size: the limit is this host's, and extending the share does not help.
		return tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE, sentence + " (a copy has no quota of its own: look above it on its host)"
	}
	for _, c := range codes() {
		if errors.Is(err, c.err) {
			return c.code, sentence + " (" + c.hint + ")"
		}
	}
	if doing == doExport || doing == doUnexport {
		return tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_EXPORT_FAILED, sentence
	}
	return tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_INTERNAL, sentence
}
