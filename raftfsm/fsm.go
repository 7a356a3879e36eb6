package raftfsm

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// Config of an FSM. The zero value is valid.
type Config struct {
	// OnHalt is called once, from Apply, when the node has to stop applying the log.
	// It must not block.
	OnHalt func(error)
	// OnOtherTerm is called for each entry stored under another term than it was
	// proposed in, also when the log is replayed. It must not block.
	OnOtherTerm func()
}

// Result is what Apply returns, as raft's ApplyFuture.Response.
type Result struct {
	// Index of the log entry; a View at or after it shows the outcome.
	Index uint64
	// Record as stored, shared and immutable; nil for verbs without one.
	Record proto.Message
	// Dropped counts the items of a Transitions batch whose guard did not hold.
	Dropped int
	// OtherTerm says that the command was refused unread, because it was stored
	// under another term than it was proposed in.
	OtherTerm bool
	// Repeated says that a command under the same key was applied before: this is its
	// outcome, and nothing has changed now. Its Index is of this entry, its Record may
	// be older than the state.
	Repeated bool
	// Err is set when the command was refused; nothing has changed then.
	Err *Error
}

// repeatedCode marks the outcomes of repetitions in the hash.
const repeatedCode Code = 0x80

func (r *Result) code() Code {
	code := Code(0)
	if r.Err != nil {
		code = r.Err.Code
	}
	if r.Repeated {
		code |= repeatedCode
	}
	return code
}

// FSM is the state machine behind the Raft log. Apply, ApplyBatch, Snapshot and Restore are
// called by raft from one goroutine; View and Halted from any.
type FSM struct {
	onHalt    func(error)
	onOther   func()
	published atomic.Pointer[state]
	halted    atomic.Pointer[error]
	checked   atomic.Uint64
	// recent hashes of this node, for CheckHash. Only Apply and Restore use it.
	hashes hashRing
}

var (
	_ raft.FSM         = (*FSM)(nil)
	_ raft.BatchingFSM = (*FSM)(nil)
)

// New returns an empty state machine.
func New(cfg Config) *FSM {
	f := &FSM{onHalt: cfg.OnHalt, onOther: cfg.OnOtherTerm}
	f.published.Store(newState())
	return f
}

// Halted says why this node stopped applying the log; nil while it has not. A
// halted node never resumes: its process has to end.
func (f *FSM) Halted() error {
	if err := f.halted.Load(); err != nil {
		return *err
	}
	return nil
}

// Checked is the newest index at which this node's state was found equal to the
// leader's; 0 while none was compared.
func (f *FSM) Checked() uint64 { return f.checked.Load() }

// View returns the present state, immutable, in constant time.
func (f *FSM) View() *View { return &View{s: f.published.Load()} }

// Apply applies one committed entry and returns a *Result. It never panics,
// whatever the bytes.
func (f *FSM) Apply(entry *raft.Log) any { return f.ApplyBatch([]*raft.Log{entry})[0] }

// ApplyBatch applies committed entries in order and publishes one new state. The
// answer of an entry that is no command is nil.
func (f *FSM) ApplyBatch(entries []*raft.Log) []any {
	run := batch{fsm: f, cur: f.published.Load()}
	out := make([]any, len(entries))
	for i, entry := range entries {
		if entry.Type == raft.LogCommand {
			out[i] = run.apply(entry)
		}
	}
	run.publish()
	return out
}

// batch is a run of entries that become visible together.
type batch struct {
	fsm   *FSM
	cur   *state
	dirty bool
	wake  []chan struct{}
}

func (b *batch) apply(entry *raft.Log) *Result {
	if err := b.fsm.Halted(); err != nil {
		return haltedResult(entry.Index, err)
	}
	cmd, err := decode(entry)
	if t := cmd.GetProposerTerm(); err == nil && t != 0 && t != entry.Term {
		return b.otherTerm(entry, cmd)
	}
	if err == nil {
		err = b.fsm.checkHash(cmd.GetCheckHash())
	}
	if err != nil {
		err = fmt.Errorf("apply log entry %d of term %d: %w", entry.Index, entry.Term, err)
		b.fsm.halt(err)
		return haltedResult(entry.Index, err)
	}
	return b.run(entry, cmd)
}

// otherTerm refuses a command that was proposed in another term than its entry has:
// it was planned before a change of leadership, or the log is at fault (raft#695).
// Every node refuses it alike, and whoever proposed it may do so again.
func (b *batch) otherTerm(entry *raft.Log, cmd *raftv1.Command) *Result {
	b.advance(entry, cmd)
	b.remember()
	if b.fsm.onOther != nil {
		b.fsm.onOther()
	}
	return &Result{Index: entry.Index, OtherTerm: true,
		Err: refuse(Aborted, "", "leadership changed while the command waited; retry with the same id")}
}

// advance counts the entry in, whatever becomes of its command.
func (b *batch) advance(entry *raft.Log, cmd *raftv1.Command) {
	b.cur, b.dirty = b.cur.advance(entry, cmd), true
}

// remember keeps the hash for the leader's next question.
func (b *batch) remember() { b.fsm.hashes.add(b.cur.index, b.cur.hash) }

func (b *batch) run(entry *raft.Log, cmd *raftv1.Command) *Result {
	b.advance(entry, cmd)
	defer b.remember()
	before := b.cur
	if again, ok := before.outcomeOf(cmd.GetActor(), cmd.GetKey()); ok {
		b.cur = before.concluded(again.code(), 0)
		again.Index = entry.Index
		return again
	}
	tx := begin(before)
	record, refusal := tx.apply(cmd)
	if refusal != nil {
		b.cur = before.audited(before, entry.Index, cmd, refusal).keeping(entry.Index, cmd, nil, refusal, keptOutcomes()).concluded(refusal.Code, 0)
		return &Result{Index: entry.Index, Err: refusal}
	}
	tx.settleWatches()
	b.cur = tx.s.audited(before, entry.Index, cmd, nil).keeping(entry.Index, cmd, record, nil, keptOutcomes()).concluded(0, tx.dropped)
	b.wake = append(b.wake, tx.wake...)
	return &Result{Index: entry.Index, Record: record, Dropped: tx.dropped}
}

func (b *batch) publish() {
	if b.dirty {
		b.fsm.publish(b.cur, b.wake)
	}
}

// publish makes next visible, then wakes who waited for it.
func (f *FSM) publish(next *state, wake []chan struct{}) {
	before := f.published.Load()
	visible := *next
	visible.changed = make(chan struct{})
	f.published.Store(&visible)
	close(before.changed)
	for _, ch := range wake {
		close(ch)
	}
}

func (f *FSM) halt(err error) {
	if f.halted.CompareAndSwap(nil, &err) && f.onHalt != nil {
		f.onHalt(err)
	}
}

func haltedResult(index uint64, err error) *Result {
	return &Result{Index: index, Err: refuse(Halted, "", "this node stopped applying the log: %v", err)}
}

var (
	errUnknownVerb = fmt.Errorf("%w: the command has a verb that this node does not know; upgrade the node", ErrNewer)
	errHash        = errors.New("the state of this node differs from the leader's: remove the node and add it again empty")
)

// decode refuses whatever this build cannot apply in full: skipping an entry
// would let this node diverge in silence.
func decode(entry *raft.Log) (*raftv1.Command, error) {
	cmd := &raftv1.Command{}
	if err := proto.Unmarshal(entry.Data, cmd); err != nil {
		return nil, fmt.Errorf("decode command: %w", err)
	}
	if cmd.GetVersion() > CommandVersion {
		return nil, fmt.Errorf("%w: command version %d is above %d; upgrade this node", ErrNewer, cmd.GetVersion(), CommandVersion)
	}
	if v := cmd.GetSetCommandVersion().GetVersion(); v > CommandVersion {
		return nil, fmt.Errorf("%w: the cluster is raised to command version %d, this node knows up to %d; upgrade this node", ErrNewer, v, CommandVersion)
	}
	if cmd.GetVerb() == nil {
		return nil, errUnknownVerb
	}
	return cmd, nil
}

// advance returns the state with the entry counted in, before its verb.
func (s *state) advance(entry *raft.Log, cmd *raftv1.Command) *state {
	next := *s
	next.index = entry.Index
	next.hash = roll(s.hash, entry)
	if at := cmd.GetProposedAt(); at.IsValid() && at.AsTime().After(s.lastTime) {
		next.lastTime = at.AsTime()
	}
	return &next
}
