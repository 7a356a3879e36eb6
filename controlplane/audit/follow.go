package audit

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"tarn/raftfsm"
)

// State gives the replicated state.
type State interface {
	View() *raftfsm.View
}

// retryWrite is how long a failed write waits for the next attempt.
const retryWrite = 5 * time.Second

// Follow copies the cluster's records to the file as they are decided, until ctx ends,
// and returns nil then. What cannot be written is tried again.
func (l *File) Follow(ctx context.Context, state State, log *slog.Logger) error {
	var complained error
	for {
		v := state.View()
		err := l.catchUp(v, log)
		if err != nil && (complained == nil || complained.Error() != err.Error()) {
			log.Error("audit file is behind; destructive calls are refused while it cannot be written", "err", err)
		}
		complained = err
		var again <-chan time.Time
		if err != nil {
			again = time.After(retryWrite)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.Changed():
		case <-again:
		}
	}
}

func (l *File) catchUp(v *raftfsm.View, log *slog.Logger) error {
	if l.forked(v) {
		if err := l.fork(); err != nil {
			return err
		}
		log.Error("the cluster's audit log is not the one in this node's file; the file goes on with what the cluster has", "head", v.AuditHead().GetSeq())
	}
	if v.AuditHead().GetSeq() <= l.Newest() {
		return nil
	}
	return l.Copy(slices.Collect(v.AuditRecords(l.Newest())))
}
