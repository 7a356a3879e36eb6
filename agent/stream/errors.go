package stream

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"tarn/zfs"
)

// Failures of the exchange itself; test with errors.Is. Failures of the storage
// keep their class of package zfs.
var (
	// ErrNoCommon: the receiver has snapshots, none of them known to the source.
	ErrNoCommon = errors.New("no snapshot in common")
	// ErrEpoch: the two sides act under different epochs; one of them will learn soon.
	ErrEpoch = errors.New("other epoch")
	// ErrDenied: the source does not know the share or does not grant it.
	ErrDenied = errors.New("not granted")
	// ErrNothing: the source has no snapshot yet.
	ErrNothing = errors.New("source has no snapshot yet")
	// ErrStalled: no byte for longer than the stall limit.
	ErrStalled = errors.New("stream stalled")
	// ErrUnreachable: the source could not be reached, or the connection broke.
	ErrUnreachable = errors.New("source unreachable")
	// ErrUnknown: the other side failed in a way that it did not classify.
	ErrUnknown = errors.New("failed")
)

// DivergedError says that the receiver has snapshots newer than the newest
// common one. It wraps zfs.ErrDiverged.
type DivergedError struct {
	// Common is the newest GUID that both sides have.
	Common zfs.GUID
}

// Error names the common snapshot.
func (e *DivergedError) Error() string {
	return fmt.Sprintf("history forked after %s: %v", e.Common, zfs.ErrDiverged)
}

// Unwrap gives zfs.ErrDiverged.
func (e *DivergedError) Unwrap() error { return zfs.ErrDiverged }

// RemoteError is a failure on the other host. It wraps its class.
type RemoteError struct {
	Class error
	// Text is the other side's own sentence, at most 2 KiB.
	Text string
}

// Error is the other side's sentence.
func (e *RemoteError) Error() string { return "source: " + e.Text }

// Unwrap gives the class.
func (e *RemoteError) Unwrap() error { return e.Class }

type class struct {
	name string
	err  error
}

// classes are the names on the wire; never reuse one for another meaning. The
// order matters: the first that matches is sent.
func classes() []class {
	return []class{
		{"diverged", zfs.ErrDiverged}, {"no_common", ErrNoCommon}, {"epoch", ErrEpoch}, {"denied", ErrDenied},
		{"nothing", ErrNothing}, {"stalled", ErrStalled}, {"unreachable", ErrUnreachable},
		{"invalid", zfs.ErrInvalid}, {"not_exist", zfs.ErrNotExist}, {"exists", zfs.ErrExists}, {"busy", zfs.ErrBusy},
		{"held", zfs.ErrHeld}, {"has_clones", zfs.ErrHasClones}, {"has_snapshots", zfs.ErrHasSnapshots},
		{"no_space", zfs.ErrNoSpace}, {"quota", zfs.ErrQuota}, {"modified", zfs.ErrModified},
		{"not_latest", zfs.ErrNotLatest}, {"resumable", zfs.ErrResumable}, {"not_resumable", zfs.ErrNotResumable},
		{"truncated", zfs.ErrStreamTruncated}, {"corrupt", zfs.ErrStreamCorrupt}, {"token", zfs.ErrTokenInvalid},
		{"base_missing", zfs.ErrBaseMissing}, {"pool", zfs.ErrPoolUnavailable}, {"permission", zfs.ErrPermission},
		{"unsupported", zfs.ErrUnsupported}, {"read_only", zfs.ErrReadOnly}, {"not_mounted", zfs.ErrNotMounted},
		{"stream_flags", zfs.ErrStreamFlags}, {"stream_refused", zfs.ErrStreamRefused}, {"key", zfs.ErrKey},
		{"hung", zfs.ErrHung}, {"tool_missing", zfs.ErrToolMissing},
		{"unknown", ErrUnknown},
	}
}

type wireError struct {
	Class  string   `json:"class"`
	Text   string   `json:"text"`
	Common zfs.GUID `json:"common,omitempty"`
}

const maxErrorText = 2 << 10

// encodeError writes err as one line of JSON, fit for a header.
func encodeError(err error) []byte {
	w := wireError{Class: "unknown", Text: printable(err.Error())}
	if len(w.Text) > maxErrorText {
		w.Text = strings.ToValidUTF8(w.Text[:maxErrorText], "")
	}
	for _, c := range classes() {
		if errors.Is(err, c.err) {
			w.Class = c.name
			break
		}
	}
	var d *DivergedError
	if errors.As(err, &d) {
		w.Common = d.Common
	}
	return encode(w)
}

// printable keeps text fit for an HTTP header.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// decodeError is the inverse of encodeError; what cannot be read is ErrUnknown.
func decodeError(data []byte) error {
	var w wireError
	if err := decodeStrict(strings.NewReader(string(data)), maxHeaderBytes, &w); err != nil {
		return &RemoteError{Class: ErrUnknown, Text: "answer without a readable error"}
	}
	if w.Class == "diverged" && w.Common != 0 {
		return &DivergedError{Common: w.Common}
	}
	for _, c := range classes() {
		if c.name == w.Class {
			return &RemoteError{Class: c.err, Text: w.Text}
		}
	}
	return &RemoteError{Class: ErrUnknown, Text: w.Text}
}

// httpStatus is for people who look at the wire; the class is in the body.
func httpStatus(err error) int {
	switch {
	case errors.Is(err, ErrDenied):
		return http.StatusForbidden
	case errors.Is(err, zfs.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, zfs.ErrNotExist), errors.Is(err, ErrNothing):
		return http.StatusNotFound
	case errors.Is(err, ErrEpoch), errors.Is(err, zfs.ErrDiverged), errors.Is(err, ErrNoCommon),
		errors.Is(err, zfs.ErrTokenInvalid):
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}
