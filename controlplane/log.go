package controlplane

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/audit"
	"tarn/controlplane/consensus"
	raftv1 "tarn/proto/tarn/raft/v1"
	"tarn/raftfsm"
)

// proposals is the part of consensus.Node that commands go through.
type proposals interface {
	ID() string
	LeadTerm(ctx context.Context) (uint64, error)
	Propose(ctx context.Context, data []byte) (answer any, index uint64, err error)
	ReadIndex(ctx context.Context) (uint64, error)
}

// commandLog turns commands into entries of the log and back into results. The
// API and the leader's loops propose through it.
type commandLog struct {
	node proposals
	gate *gate
	// counted is told each proposal's verb and result.
	counted func(verb, result string)
}

// Propose stamps the command with the time, this node and the term that it leads,
// and returns what the state machine answered. An entry that is stored under another
// term (the command waited inside raft while leadership was lost and won again, or
// raft#695) has changed nothing; as for its author, the outcome is unknown then,
// because a log with such entries may yet be replaced by another.
func (l *commandLog) Propose(ctx context.Context, cmd *raftv1.Command) (*raftfsm.Result, error) {
	term, err := l.node.LeadTerm(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.gate.pass(ctx, cmd); err != nil {
		return nil, err
	}
	cmd.ProposedAt = timestamppb.New(time.Now())
	cmd.ProposerId, cmd.ProposerTerm = l.node.ID(), term
	if cmd.GetActor() == "" {
		cmd.Actor = "leader"
	}
	if l.gate.state.View().CommandVersion() >= raftfsm.AuditVersion {
		cmd.Audit = audit.Note(cmd)
	} else {
		cmd.Audit = nil // An older member would not keep the record.
	}
	if l.gate.state.View().CommandVersion() < raftfsm.KeyVersion {
		cmd.Key = nil // An older member would do it again.
	}
	verb := verbOf(cmd)
	data, err := proto.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	answer, _, err := l.node.Propose(ctx, data)
	if err != nil {
		l.counted(verb, "unknown")
		return nil, err
	}
	result, ok := answer.(*raftfsm.Result)
	if !ok {
		return nil, fmt.Errorf("state machine answered %T", answer)
	}
	if result.OtherTerm {
		l.counted(verb, "unknown")
		return nil, fmt.Errorf("%w: %w", consensus.ErrUnknownOutcome, result.Err)
	}
	switch {
	case result.Repeated:
		l.counted(verb, "repeated")
	case result.Err != nil:
		l.counted(verb, "refused")
	default:
		l.counted(verb, "applied")
	}
	return result, nil
}

// ReadIndex is the log's, see consensus.Node.
func (l *commandLog) ReadIndex(ctx context.Context) (uint64, error) { return l.node.ReadIndex(ctx) }

// verbOf names the command for metrics: a bounded set.
func verbOf(cmd *raftv1.Command) string {
	m := cmd.ProtoReflect()
	if field := m.WhichOneof(m.Descriptor().Oneofs().ByName("verb")); field != nil {
		return string(field.Name())
	}
	return "none"
}
