package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// FileName is the file that a node is writing; full ones are named after their first line.
const FileName = "audit.log"

// Kinds of an Entry.
const (
	KindOpened = "opened" // the node began to write here
	KindRecord = "record" // a decision of the cluster
	KindIntent = "intent" // a destructive call that is about to be proposed
	KindDenied = "denied" // a call or connection that was refused at the door
	KindPolicy = "policy" // the rules that the node follows from now on
	KindForked = "forked" // the cluster has other records than the file: it was restored from a backup
)

// rotateAt is the size of a file, in bytes, from which a new one is begun.
const rotateAt = 64 << 20

// Entry is one line of a node's file, after its hash: hex(SHA-256(hash of the line
// before, this JSON)).
type Entry struct {
	N    uint64    `json:"n"` // 1 for the node's first line, without gaps
	At   time.Time `json:"at"`
	Node string    `json:"node"`
	Kind string    `json:"kind"`
	// Record is the AuditRecord of KindRecord, as JSON.
	Record json.RawMessage `json:"record,omitempty"`

	Actor     string `json:"actor,omitempty"`
	Remote    string `json:"remote,omitempty"`
	Project   string `json:"project,omitempty"`
	Action    string `json:"action,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Details   string `json:"details,omitempty"`
	// Suppressed counts refusals that were not written, because there were too many.
	Suppressed int `json:"suppressed,omitempty"`
}

// File is a node's audit file. It only ever grows: full files are set aside, none is
// deleted. Safe for concurrent use.
type File struct {
	dir, node string
	limit     int64

	mu   sync.Mutex
	f    *os.File
	size int64
	n    uint64
	last [sha256.Size]byte
	// Newest record in the file.
	record *tarnv1.AuditRecord
	denied suppressor
}

// Open continues the file in dir, which is made with mode 0700 if it is not there. A
// line that a crash cut short is removed: nobody was told that it was written. A file
// whose chain does not hold is set aside and said so in the log: somebody changed it.
func Open(dir, node string, log *slog.Logger) (*File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make audit directory: %w", err)
	}
	l := &File{dir: dir, node: node, limit: rotateAt, denied: newSuppressor()}
	err := l.resume(log)
	if errors.Is(err, ErrChain) || errors.Is(err, raftfsm.ErrAudit) {
		aside := filepath.Join(dir, fmt.Sprintf("broken-%d.log", time.Now().UnixNano()))
		log.Error("the audit file was changed; it is set aside and a new one begun", "file", aside, "err", err)
		if err = os.Rename(filepath.Join(dir, FileName), aside); err == nil {
			err = l.resume(log)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open audit file: %w", err)
	}
	if err := l.write(Entry{Kind: KindOpened}, false); err != nil {
		// A full disk must not keep a node from starting: until it can write,
		// destructive calls are refused.
		log.Error("the audit file cannot be written", "err", err)
	}
	return l, nil
}

func (l *File) resume(log *slog.Logger) error {
	// A link in the place of the file would let somebody point the node elsewhere.
	f, err := os.OpenFile(filepath.Join(l.dir, FileName), os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	end, err := scan(f, chain{})
	if err == nil {
		err = f.Truncate(end.size)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.f, l.size, l.n, l.last, l.record = f, end.size, end.n, end.last, end.record
	if l.n == 0 {
		l.resumeAfterFull(log)
	}
	return nil
}

// resumeAfterFull goes on where the last full file ended, if there is one.
func (l *File) resumeAfterFull(log *slog.Logger) {
	files, err := Files(l.dir)
	if err != nil || len(files) < 2 {
		return
	}
	before, err := VerifyFile(files[len(files)-2])
	if err != nil {
		log.Error("a full audit file was changed; a new chain begins", "err", err)
		return
	}
	l.n, l.last, l.record = before.n, before.last, before.record
}

// Close ends writing.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// Intend writes an intent and returns once it is on disk.
func (l *File) Intend(e Entry) error {
	e.Kind = KindIntent
	return l.write(e, true)
}

// Denied writes a refusal, unless there are too many of them.
func (l *File) Denied(e Entry) error {
	ok, before := l.denied.take(time.Now())
	if !ok {
		return nil
	}
	e.Kind, e.Suppressed = KindDenied, before
	return l.write(e, false)
}

// Policy writes which rules the node follows from now on.
func (l *File) Policy(details string) error {
	return l.write(Entry{Kind: KindPolicy, Details: details}, false)
}

// Copy writes the records that the file does not have yet; they come in order.
func (l *File) Copy(records []*tarnv1.AuditRecord) error {
	for _, r := range records {
		if r.GetSeq() <= l.Newest() {
			continue
		}
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r)
		if err != nil {
			return fmt.Errorf("encode audit record %d: %w", r.GetSeq(), err)
		}
		if err := l.write(Entry{Kind: KindRecord, Record: text}, false); err != nil {
			return err
		}
		l.mu.Lock()
		l.record = r
		l.mu.Unlock()
	}
	return nil
}

// Newest is the number of the newest record in the file; 0 for none.
func (l *File) Newest() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.record.GetSeq()
}

// forked tells whether the cluster has another record under the number of the file's
// newest one. What the cluster has let go of, or not applied yet, cannot be compared.
func (l *File) forked(v *raftfsm.View) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range v.AuditRecords(l.record.GetSeq() - 1) {
		return l.record != nil && r.GetSeq() == l.record.GetSeq() && !bytes.Equal(r.GetHash(), l.record.GetHash())
	}
	return false
}

// fork notes that the cluster's records begin anew.
func (l *File) fork() error {
	if err := l.write(Entry{Kind: KindForked}, false); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.record = nil
	return nil
}

func (l *File) write(e Entry, sync bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size >= l.limit {
		if err := l.rotate(); err != nil {
			return fmt.Errorf("set full audit file aside: %w", err)
		}
	}
	e.N, e.At, e.Node = l.n+1, time.Now().UTC(), l.node
	e.bound()
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode audit entry: %w", err)
	}
	hash := link(l.last, text)
	line := append(append(hex.AppendEncode(nil, hash[:]), ' '), append(text, '\n')...)
	if _, err = l.f.Write(line); err == nil && sync {
		err = l.f.Sync()
	}
	if err != nil {
		// Half a line must not stay in front of the next one.
		return errors.Join(fmt.Errorf("write audit file: %w", err), l.f.Truncate(l.size))
	}
	l.size, l.n, l.last = l.size+int64(len(line)), e.N, hash
	return nil
}

// bound cuts what strangers can make long: a path that they ask for, or what their
// handshake offers. A line above maxLine would count as changed by somebody.
func (e *Entry) bound() {
	for _, text := range []*string{&e.Actor, &e.Remote, &e.Project, &e.Action, &e.RequestID, &e.Reason, &e.Details} {
		*text = cut(*text)
	}
}

func (l *File) rotate() error {
	path := filepath.Join(l.dir, FileName)
	if err := l.f.Sync(); err != nil {
		return err
	}
	// It is gone if an attempt before came no further than this.
	if err := os.Rename(path, filepath.Join(l.dir, asideName(l.n))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	next, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	old := l.f
	l.f, l.size = next, 0
	return old.Close()
}

// asideName sorts by the number of the file's last line.
func asideName(last uint64) string { return fmt.Sprintf("audit-%020d.log", last) }

func link(before [sha256.Size]byte, text []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(before[:])
	h.Write(text)
	return [sha256.Size]byte(h.Sum(nil))
}

// suppressor lets a burst of refusals through, then ten a second, and so many a day:
// whoever knocks all the time must not fill the disk.
type suppressor struct {
	mu       sync.Mutex
	short    allowance
	long     allowance
	at       time.Time
	withheld int
}

// allowance is what may be written at once, and comes again over time.
type allowance struct{ tokens, most, perSec float64 }

func (a *allowance) refill(passed time.Duration) {
	a.tokens = min(a.most, a.tokens+passed.Seconds()*a.perSec)
}

const (
	deniedBurst  = 100
	deniedPerSec = 10
	deniedPerDay = 20_000
)

func newSuppressor() suppressor {
	return suppressor{
		short: allowance{deniedBurst, deniedBurst, deniedPerSec},
		long:  allowance{deniedPerDay, deniedPerDay, deniedPerDay / (24 * time.Hour).Seconds()},
	}
}

func (s *suppressor) take(now time.Time) (ok bool, before int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	passed := max(0, now.Sub(s.at))
	s.at = now
	s.short.refill(passed)
	s.long.refill(passed)
	if s.short.tokens < 1 || s.long.tokens < 1 {
		s.withheld++
		return false, 0
	}
	s.short.tokens--
	s.long.tokens--
	before, s.withheld = s.withheld, 0
	return true, before
}

var _ io.Closer = (*File)(nil)
