package stream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"tarn/zfs"
)

// Limits of what one side accepts from the other.
const (
	maxHave        = 4096             // GUIDs in one request
	maxTokenBytes  = 64 << 10         // a resume token
	maxRequestBody = 256 << 10        // bytes of a request
	maxHeadsBody   = 16 << 20         // bytes of an answer to a poll
	maxHeaderBytes = 32 << 10         // bytes of a step or an error
	maxPollWait    = 2 * time.Second  // longest a poll is held
	pollGrace      = 30 * time.Second // until a poll without answer is given up
)

const (
	pathHeads    = "/v1/heads"
	pathPull     = "/v1/pull"
	headerStep   = "Tarn-Step"
	headerResult = "Tarn-Result"
	headerPlain  = "Tarn-Plain"
)

// Kinds of a Step.
const (
	KindNone        = "none" // the receiver has everything
	KindFull        = "full"
	KindIncremental = "incremental"
	KindBookmark    = "bookmark" // incremental, from a base of which the source has only a bookmark
	KindResume      = "resume"
)

// Step says what a stream brings. The source decides it.
type Step struct {
	Kind string   `json:"kind"`
	From zfs.GUID `json:"from,omitempty"`
	// To is the snapshot that the stream ends in; with KindNone the receiver's newest.
	To     zfs.GUID `json:"to"`
	ToName string   `json:"to_name"`
	// Created is when To was taken, by the source's clock; for display.
	Created time.Time `json:"created"`
	// Estimate is the size of the stream in bytes; 0 unknown.
	Estimate int64 `json:"estimate,omitempty"`
	// Head is the source's newest snapshot, Behind how many steps lead to it.
	Head   zfs.GUID `json:"head"`
	Behind int      `json:"behind"`
	// Age in nanoseconds since the source's live data were known equal to To; -1 unknown.
	Age int64 `json:"age_ns"`
	// Flags of the stream (zfs.StreamFlags), which the receiver keeps for the replica's
	// life; empty with KindNone.
	Flags string `json:"flags,omitempty"`
}

// UpToDate reports that there is nothing to send.
func (s Step) UpToDate() bool { return s.Kind == KindNone }

type pullBody struct {
	Share   string `json:"share"`
	Source  string `json:"source"`
	Replica string `json:"replica"`
	Epoch   uint64 `json:"epoch"`
	// Have is newest first.
	Have  []zfs.GUID `json:"have,omitempty"`
	Token string     `json:"token,omitempty"`
	// Want asks for a full stream of just this snapshot.
	Want zfs.GUID `json:"want,omitempty"`
	// Plain: the receiver trusts the network between the two.
	Plain bool `json:"plain,omitempty"`
	// Flags are those of the streams that the receiver has taken so far, empty when it
	// does not know any; Can are those that it is able to take.
	Flags string `json:"flags,omitempty"`
	Can   string `json:"can,omitempty"`
}

func decodePull(r io.Reader) (pullBody, error) {
	var p pullBody
	if err := decodeStrict(r, maxRequestBody, &p); err != nil {
		return p, err
	}
	if len(p.Have) > maxHave {
		return p, fmt.Errorf("%d GUIDs, at most %d: %w", len(p.Have), maxHave, zfs.ErrInvalid)
	}
	if len(p.Token) > maxTokenBytes {
		return p, fmt.Errorf("token of %d bytes: %w", len(p.Token), zfs.ErrInvalid)
	}
	for _, id := range []string{p.Share, p.Source, p.Replica} {
		if err := zfs.ValidateComponent(id); err != nil {
			return p, fmt.Errorf("check id: %w", err)
		}
	}
	for _, f := range []string{p.Flags, p.Can} {
		if _, err := parseFlags(f); err != nil {
			return p, err
		}
	}
	return p, nil
}

type headsBody struct {
	// Boot is the board that Since belongs to; another one answers in full.
	Boot    uint64 `json:"boot"`
	Since   uint64 `json:"since"`
	MaxWait int64  `json:"max_wait_ms"`
}

func (h headsBody) wait() time.Duration {
	if h.MaxWait < 0 || h.MaxWait > int64(maxPollWait/time.Millisecond) {
		return maxPollWait
	}
	return time.Duration(h.MaxWait) * time.Millisecond
}

func decodeHeads(r io.Reader) (headsBody, error) {
	var h headsBody
	err := decodeStrict(r, maxRequestBody, &h)
	return h, err
}

// headsAnswer lists what changed since the asked generation. What is not in it
// is unchanged and was equal to its live data CommonAge ago; with Full set, what
// is not in it is gone.
type headsAnswer struct {
	Boot       uint64 `json:"boot"`
	Generation uint64 `json:"generation"`
	Full       bool   `json:"full,omitempty"`
	// Held is how long the source kept the request, nanoseconds: what remains of
	// the round trip is added to every age.
	Held int64 `json:"held_ns"`
	// CommonAge in nanoseconds, -1 when nothing was left out.
	CommonAge int64      `json:"common_age_ns"`
	Heads     []wireHead `json:"heads,omitempty"`
}

type wireHead struct {
	Share   string    `json:"share"`
	Replica string    `json:"replica"`
	Epoch   uint64    `json:"epoch"`
	GUID    zfs.GUID  `json:"guid"`
	Created time.Time `json:"created"`
	// Age in nanoseconds since live data and head were known equal; -1 never.
	Age   int64 `json:"age_ns"`
	Dirty int64 `json:"dirty"`
}

func decodeHeadsAnswer(r io.Reader) (headsAnswer, error) {
	var a headsAnswer
	if err := decodeStrict(r, maxHeadsBody, &a); err != nil {
		return a, err
	}
	if a.Held < 0 || a.CommonAge < -1 {
		return a, fmt.Errorf("negative age in a heads answer: %w", zfs.ErrInvalid)
	}
	for _, h := range a.Heads {
		if h.Age < -1 {
			return a, fmt.Errorf("negative age of replica %s: %w", h.Replica, zfs.ErrInvalid)
		}
	}
	return a, nil
}

func decodeStep(header string) (Step, error) {
	var s Step
	if err := decodeStrict(bytes.NewReader([]byte(header)), maxHeaderBytes, &s); err != nil {
		return s, fmt.Errorf("decode %s: %w", headerStep, err)
	}
	if s.Age < -1 {
		return s, fmt.Errorf("step of negative age: %w", zfs.ErrInvalid)
	}
	switch s.Kind {
	case KindNone:
		return s, nil
	case KindFull, KindIncremental, KindBookmark, KindResume:
		if s.To == 0 {
			return s, fmt.Errorf("step without a target: %w", zfs.ErrInvalid)
		}
		if _, err := parseFlags(s.Flags); err != nil {
			return s, err
		}
		return s, zfs.ValidateSnapshotName(s.ToName)
	}
	return s, fmt.Errorf("step of kind %q: %w", s.Kind, zfs.ErrInvalid)
}

// decodeStrict reads one JSON value of at most limit bytes: no unknown field,
// nothing behind it.
func decodeStrict(r io.Reader, limit int64, into any) error {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	if int64(len(data)) > limit {
		return fmt.Errorf("message above %d bytes: %w", limit, zfs.ErrInvalid)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("decode message: %v: %w", err, zfs.ErrInvalid)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("trailing data after message: %w", zfs.ErrInvalid)
	}
	return nil
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		// Only types of this file get here; none of them can fail.
		return []byte("{}")
	}
	return data
}
