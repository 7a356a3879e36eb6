package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/cmd/tarn/dev"
	tarnv1 "tarn/proto/tarn/v1"
)

// The active's agent hangs: it neither writes nor hears anything, and would go on
// where it was. Its dead-man ends its right to write at the end of the lease, the
// share moves, and the agent that goes on finds itself a copy, never a second writer.
func TestStoppedAgentIsFenced(t *testing.T) {
	c := start(t, dev.Options{Servers: 1, Agents: 2, Zones: 2})
	c.must("share-type", "create", "gold", "--replication-type", "readable", "--rpo", "10s")
	share := strings.TrimSpace(c.must("-q", "share", "create", "web", "--type", "gold", "--size", "1", "--zone", "az1", "--wait"))
	c.must("replica", "create", "web", "--zone", "az2", "--wait")
	c.must("access", "allow", "web", "127.0.0.0/8", "--wait")
	active, copied := c.replicaAt(share, "az1", isWritable), c.replicaAt(share, "az2", isInSync)
	c.watchOneWriter([]string{active.GetId(), copied.GetId()})
	var d diary
	if err := d.write(active.GetObserved().GetMountpoint(), 10); err != nil {
		t.Fatal(err)
	}
	c.eventually(30*time.Second, "the copy has everything", func(context.Context) error { return d.whole(copied.GetObserved().GetMountpoint()) })

	agent := c.agentOf(active)
	if err := c.Signal(agent, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	c.eventually(20*time.Second, "the hanging agent's share is out of reach", func(context.Context) error {
		_, err := os.Stat(active.GetObserved().GetMountpoint())
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("still there: %w", err)
	})
	t.Logf("fenced %s after the agent was stopped", time.Since(stopped).Round(time.Millisecond))
	s := c.tarn("replica", "promote", copied.GetId(), "--force", "--reason", "agent1 hangs", "--wait", "--timeout", "60s")
	if s.code != 0 {
		t.Fatalf("exit code %d: %s", s.code, s.stderr)
	}
	t.Logf("the share moved %s after the agent was stopped", time.Since(stopped).Round(time.Millisecond))
	dir := c.replicaAt(share, "az2", isWritable).GetObserved().GetMountpoint()
	if err := errors.Join(d.whole(dir), d.write(dir, 10)); err != nil {
		t.Fatal(err)
	}
	if err := c.Signal(agent, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.eventually(time.Minute, "the agent that goes on is a copy", func(ctx context.Context) error {
		r := c.replicaAt(share, "az1", isInSync)
		if r.GetObserved().GetMountpoint() == "" || r.GetObserved().GetObservedRole() != tarnv1.Role_ROLE_SECONDARY {
			return fmt.Errorf("it is %s, mounted at %q", r.GetObserved().GetObservedRole(), r.GetObserved().GetMountpoint())
		}
		return d.whole(r.GetObserved().GetMountpoint())
	})
}
