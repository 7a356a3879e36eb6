package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"tarn/raftfsm"
)

// Format is the newest layout that this version reads, and the one it writes.
const Format = 1

// magic begins every file, before the format's number and a line feed.
const magic = "tarn-backup "

// Info is what a backup says of itself. All but the state's own figures (Index,
// CommandVersion, Hash) is for people and for the checks of a restore.
type Info struct {
	Cluster string    `json:"cluster"`
	TakenAt time.Time `json:"taken_at"`
	// Version of the tarn that wrote it.
	Version string `json:"tarn_version"`
	// NodeID of the control-plane node that wrote it.
	NodeID string `json:"node_id"`
	// Index and Term of the log at that moment.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	// CommandVersion that a node needs to go on from here.
	CommandVersion uint32 `json:"command_version"`
	// Hash of the log up to Index, hex.
	Hash string `json:"hash"`
	// Servers were the members of the control plane.
	Servers []Server `json:"servers"`
}

// Server is a member of the control plane.
type Server struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Voter   bool   `json:"voter"`
}

// Write writes a backup of state, which writes itself in raftfsm's snapshot format.
func Write(w io.Writer, info Info, state io.WriterTo) error {
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	head, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode backup: %w", err)
	}
	if _, err := fmt.Fprintf(out, "%s%d\n%s\n", magic, Format, head); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if _, err := state.WriteTo(out); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// Chunks yields what Write writes in pieces of size bytes, the last one maybe
// shorter. A piece is valid until the next one is asked for. It runs in the caller's
// goroutine; to stop early costs nothing.
func Chunks(info Info, state io.WriterTo, size int) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		c := &chunker{yield: yield, buf: make([]byte, 0, size)}
		err := Write(c, info, state)
		switch {
		case errors.Is(err, errStopped):
		case err != nil:
			yield(nil, err)
		case len(c.buf) > 0:
			yield(c.buf, nil)
		}
	}
}

var errStopped = errors.New("nobody wants the rest of the backup")

// chunker hands on full buffers.
type chunker struct {
	yield func([]byte, error) bool
	buf   []byte
}

// Write implements io.Writer.
func (c *chunker) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		n := min(len(p), cap(c.buf)-len(c.buf))
		c.buf, p = append(c.buf, p[:n]...), p[n:]
		if len(c.buf) < cap(c.buf) {
			continue
		}
		if !c.yield(c.buf, nil) {
			return 0, errStopped
		}
		c.buf = c.buf[:0]
	}
	return written, nil
}

// Describe returns what a state says for Info.
func Describe(v *raftfsm.View) Info {
	return Info{Cluster: v.ClusterID(), Index: v.Index(), CommandVersion: v.CommandVersion(), Hash: hex.EncodeToString(v.Hash())}
}
