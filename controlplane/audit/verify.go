package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// ErrChain is wrapped when a file was changed after it was written.
var ErrChain = errors.New("audit file was changed")

// maxLine bounds a line, in bytes.
const maxLine = 64 << 10

// chain is how far a file has been read.
type chain struct {
	n      uint64
	last   [sha256.Size]byte
	size   int64 // of the whole lines, in bytes
	record *tarnv1.AuditRecord
	counts Counts
	// begun: the first line's predecessor is known.
	begun bool
}

// Counts says what a verified file holds.
type Counts struct {
	Entries int `json:"lines"`
	Records int `json:"records"`
	Intents int `json:"intents"`
	Denied  int `json:"refusals"`
	// First is the number of the first line: above 1, earlier files are not there.
	First uint64 `json:"first_line"`
	// Gaps are records that are missing in the file because the node was away for so
	// long that the cluster had let go of them.
	Gaps int `json:"missing_records"`
	// Chains count how often the numbers begin at 1: more than once when a file was set
	// aside or taken away.
	Chains int `json:"chains"`
	// Forks count how often the cluster was found restored from a backup.
	Forks int `json:"restores"`
}

// Counts returns what was read.
func (c chain) Counts() Counts { return c.counts }

// Head returns the newest record that was read; nil without one.
func (c chain) Head() *tarnv1.AuditRecord { return c.record }

// Files lists the audit files of a directory, oldest first.
func Files(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "audit-*.log"))
	if err != nil {
		return nil, fmt.Errorf("list audit files: %w", err)
	}
	slices.Sort(files)
	current := filepath.Join(dir, FileName)
	if _, err := os.Lstat(current); err == nil {
		files = append(files, current)
	}
	return files, nil
}

// VerifyFile reads one file to its end. The first line's predecessor is taken on
// trust unless the file is the node's first.
func VerifyFile(path string) (chain, error) { return verify(chain{}, path) }

// VerifyDir reads all files of a node in order, as one chain.
func VerifyDir(dir string) (chain, error) {
	files, err := Files(dir)
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no audit files in %s: %w", dir, os.ErrNotExist)
	}
	var c chain
	for _, path := range files {
		if err == nil {
			c, err = verify(c, path)
		}
	}
	return c, err
}

func verify(from chain, path string) (chain, error) {
	f, err := os.Open(path)
	if err != nil {
		return from, fmt.Errorf("verify audit file: %w", err)
	}
	defer f.Close()
	end, err := scan(f, from)
	if err != nil {
		return end, fmt.Errorf("%s: %w", path, err)
	}
	if info, err := f.Stat(); err == nil && info.Size() > end.size {
		return end, fmt.Errorf("%s: the last line is cut short: %w", path, ErrChain)
	}
	return end, nil
}

// scan reads whole lines and checks each against the one before.
func scan(r io.Reader, c chain) (chain, error) {
	c.size = 0
	in := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return c, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return c, fmt.Errorf("line %d is above %d bytes: %w", c.n+1, maxLine, ErrChain)
		case err != nil:
			return c, err
		}
		if err := c.add(line[:len(line)-1]); err != nil {
			return c, err
		}
		c.size += int64(len(line))
	}
}

func (c *chain) add(line []byte) error {
	printed, text, ok := bytes.Cut(line, []byte{' '})
	var said [sha256.Size]byte
	if n, err := hex.Decode(said[:], printed[:min(len(printed), 2*len(said))]); !ok || err != nil || n != len(said) || len(printed) != 2*len(said) {
		return fmt.Errorf("after line %d: no hash: %w", c.n, ErrChain)
	}
	var e Entry
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return fmt.Errorf("after line %d: %v: %w", c.n, err, ErrChain)
	}
	if e.N == 1 {
		// A new chain, after a file that was set aside or taken away: it counts.
		c.n, c.last, c.begun = 0, [sha256.Size]byte{}, true
		c.counts.Chains++
	}
	if c.counts.Entries == 0 {
		c.counts.First = e.N
	}
	// Of a node's later files read alone the first line is the anchor.
	if c.begun && (e.N != c.n+1 || said != link(c.last, text)) {
		return fmt.Errorf("line %d: the hash does not follow from the lines before: %w", c.n+1, ErrChain)
	}
	c.begun, c.n, c.last = true, e.N, said
	return c.count(e)
}

func (c *chain) count(e Entry) error {
	c.counts.Entries++
	switch e.Kind {
	case KindIntent:
		c.counts.Intents++
	case KindDenied:
		c.counts.Denied++
	case KindForked:
		c.counts.Forks++
		c.record = nil
	case KindRecord:
		return c.follow(e)
	}
	return nil
}

func (c *chain) follow(e Entry) error {
	r := &tarnv1.AuditRecord{}
	if err := protojson.Unmarshal(e.Record, r); err != nil {
		return fmt.Errorf("line %d: %v: %w", e.N, err, ErrChain)
	}
	before := c.record
	if before != nil && r.GetSeq() > before.GetSeq()+1 {
		c.counts.Gaps += int(r.GetSeq() - before.GetSeq() - 1)
		before = nil
	}
	if err := raftfsm.FollowsAudit(before, r); err != nil {
		return fmt.Errorf("line %d: %w", e.N, err)
	}
	c.record = r
	c.counts.Records++
	return nil
}

// VerifyRecords checks that records follow from each other, the first one only in
// itself. Errors wrap raftfsm.ErrAudit.
func VerifyRecords(before *tarnv1.AuditRecord, records []*tarnv1.AuditRecord) error {
	for _, r := range records {
		if err := raftfsm.FollowsAudit(before, r); err != nil {
			return err
		}
		before = r
	}
	return nil
}
