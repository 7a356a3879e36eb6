package api

import (
	"context"
	"fmt"
	"testing"

	"connectrpc.com/connect"
)

// TestStoppingNodeIsUnavailable: callers ask another node, or again, where a node's end has
// cut their request off. None of them has cancelled it.
func TestStoppingNodeIsUnavailable(t *testing.T) {
	for err, want := range map[error]connect.Code{
		context.Canceled:         connect.CodeUnavailable,
		context.DeadlineExceeded: connect.CodeDeadlineExceeded,
	} {
		if got := connect.CodeOf(fromCluster(fmt.Errorf("propose: %w", err), "id")); got != want {
			t.Errorf("%v is told as %v", err, got)
		}
	}
}
