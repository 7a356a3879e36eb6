package controlplane

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tarn/controlplane/consensus"
	raftv1 "tarn/proto/tarn/raft/v1"
	"tarn/raftfsm"
)

// commandLog turns commands into entries of the log and back into results. The
// API and the leader's loops propose through it.
type commandLog struct {
	node *consensus.Node
	// counted is told each proposal's verb and result.
	counted func(verb, result string)
}

// Propose stamps the command with this node and the time, and returns what the
// state machine answered. The term is not stamped: a proposal may wait inside
// raft while leadership is lost and won again, and an entry stored under the
// later term would stop every node that compares the two.
func (l *commandLog) Propose(ctx context.Context, cmd *raftv1.Command) (*raftfsm.Result, error) {
	cmd.ProposedAt = timestamppb.New(time.Now())
	cmd.ProposerId = l.node.ID()
	if cmd.GetActor() == "" {
		cmd.Actor = "leader"
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
	if result.Err != nil {
		l.counted(verb, "refused")
		return result, nil
	}
	l.counted(verb, "applied")
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
