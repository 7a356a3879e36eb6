package zfs

import (
	"fmt"
	"strings"
)

// StreamFlags are the choices that make the streams of one replica fit each other.
// They are negotiated once, at the first full stream, and kept for life: changing
// them between increments loses data on old versions and is refused by new ones
// (reference 3.1). The zero value is the plain stream that every version reads.
type StreamFlags struct {
	Raw         bool // -w: encrypted blocks as they are; the receiver never sees the key
	LargeBlocks bool // -L: blocks above 128 KiB are not split
	Compressed  bool // -c: blocks stay compressed
	Embedded    bool // -e: tiny blocks inside their pointers; never with encryption
}

// StreamFlags are those that the engine can send and receive.
func (c Capabilities) StreamFlags() StreamFlags {
	return StreamFlags{Raw: c.Raw, LargeBlocks: c.LargeBlocks, Compressed: c.Compressed, Embedded: c.EmbeddedData}
}

// NegotiateFlags chooses the flags of a new replica from what both ends can do
// (Capabilities.StreamFlags). encrypted says whether the source dataset is. An
// encrypted dataset travels raw or not at all: otherwise its data would lie in clear
// on the target.
func NegotiateFlags(source, target StreamFlags, encrypted bool) (StreamFlags, error) {
	if encrypted {
		if !source.Raw || !target.Raw {
			return StreamFlags{}, fmt.Errorf("%w: the dataset is encrypted and both hosts must send and receive raw streams (OpenZFS 0.8 and a pool with feature@encryption); the source can do %s, the target %s",
				ErrUnsupported, source, target)
		}
		return StreamFlags{Raw: true}, nil // implies the others
	}
	return StreamFlags{
		LargeBlocks: source.LargeBlocks && target.LargeBlocks,
		Compressed:  source.Compressed && target.Compressed,
		// The target dataset may be encrypted by its parent, and then refuses them.
		Embedded: source.Embedded && target.Embedded && !source.Raw && !target.Raw,
	}, nil
}

// Within reports that all of f are among what an end can do.
func (f StreamFlags) Within(can StreamFlags) bool {
	return (!f.Raw || can.Raw) && (!f.LargeBlocks || can.LargeBlocks) && (!f.Compressed || can.Compressed) && (!f.Embedded || can.Embedded)
}

// String is the form that a dataset's mark keeps: "plain", or words joined by "+", as
// "compressed+large-blocks".
func (f StreamFlags) String() string {
	var words []string
	for _, w := range f.words() {
		if *w.flag {
			words = append(words, w.word)
		}
	}
	if len(words) == 0 {
		return "plain"
	}
	return strings.Join(words, "+")
}

type flagWord struct {
	flag      *bool
	word      string
	tokenName string // in a resume token
	option    string // of zfs send
}

func (f *StreamFlags) words() []flagWord {
	return []flagWord{
		{&f.Compressed, "compressed", "compressok", "-c"},
		{&f.Embedded, "embedded", "embedok", "-e"},
		{&f.LargeBlocks, "large-blocks", "largeblockok", "-L"},
		{&f.Raw, "raw", "rawok", "-w"},
	}
}

// set turns on the flag that a resume token names.
func (f *StreamFlags) set(tokenName string) {
	for _, w := range f.words() {
		if w.tokenName == tokenName {
			*w.flag = true
		}
	}
}

// options are those of zfs send.
func (f StreamFlags) options() []string {
	var list []string
	for _, w := range f.words() {
		if *w.flag {
			list = append(list, w.option)
		}
	}
	return list
}

// ParseStreamFlags reads what String wrote. Words in another order or repeated are
// errors, so that equal flags have equal texts.
func ParseStreamFlags(s string) (StreamFlags, error) {
	var f StreamFlags
	for _, word := range strings.Split(s, "+") {
		for _, w := range f.words() {
			if w.word == word {
				*w.flag = true
			}
		}
	}
	if f.String() != s {
		return StreamFlags{}, fmt.Errorf("%w: stream flags %.100q", ErrInvalid, s)
	}
	return f, nil
}
