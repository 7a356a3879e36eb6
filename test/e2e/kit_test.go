package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"tarn/cmd/tarn/dev"
	tarnv1 "tarn/proto/tarn/v1"
)

// said is what one run of the program ended with.
type said struct {
	stdout, stderr string
	code           int
}

// in is the same cluster with what fails reported to a subtest.
func (c *cluster) in(t *testing.T) *cluster {
	return &cluster{Cluster: c.Cluster, t: t, api: c.api}
}

// tarnAs runs the real program with a client configuration.
func (c *cluster) tarnAs(config string, args ...string) said {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, suite.binary, args...)
	cmd.Env = append(os.Environ(), "TARN_CONFIG="+config, "TARN_PROJECT=", "TARN_DEV=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		c.t.Fatalf("tarn %s: %v", strings.Join(args, " "), err)
	}
	return said{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// tarn runs the program as the operator.
func (c *cluster) tarn(args ...string) said {
	c.t.Helper()
	return c.tarnAs(c.ClientConfig(), args...)
}

// must runs the program as the operator and returns what it printed; it has to succeed.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	s := c.tarn(args...)
	if s.code != 0 {
		c.t.Fatalf("tarn %s: exit code %d\n%s%s", strings.Join(args, " "), s.code, s.stdout, s.stderr)
	}
	return s.stdout
}

// facts is everything that a user or operator can have changed, as text. What
// agents observe is left out: it moves by itself.
func (c *cluster) facts(ctx context.Context) (string, error) {
	var all []proto.Message
	for _, list := range []func(context.Context) ([]proto.Message, error){
		c.typeFacts, c.shareFacts, c.replicaFacts, c.snapshotFacts, c.ruleFacts, c.hostFacts,
	} {
		records, err := list(ctx)
		if err != nil {
			return "", err
		}
		all = append(all, records...)
	}
	lines := make([]string, len(all))
	for i, m := range all {
		lines[i] = fmt.Sprintf("%s: %s", m.ProtoReflect().Descriptor().Name(), prototext.Format(m))
	}
	return strings.Join(lines, "\n"), nil
}

func messages[M proto.Message](records []M, err error) ([]proto.Message, error) {
	out := make([]proto.Message, len(records))
	for i, m := range records {
		out[i] = m
	}
	return out, err
}

func (c *cluster) typeFacts(ctx context.Context) ([]proto.Message, error) {
	answer, err := c.api.ShareTypes.ListShareTypes(ctx, &tarnv1.ListShareTypesRequest{})
	return messages(answer.GetShareTypes(), err)
}

func (c *cluster) shareFacts(ctx context.Context) ([]proto.Message, error) {
	answer, err := c.api.Shares.ListShares(ctx, &tarnv1.ListSharesRequest{AllProjects: true})
	return messages(answer.GetShares(), err)
}

func (c *cluster) replicaFacts(ctx context.Context) ([]proto.Message, error) {
	answer, err := c.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{AllProjects: true})
	for _, r := range answer.GetReplicas() {
		// The head is checkpointed by the leader when it sees fit.
		r.Observed, r.HeadGuid, r.HeadCreatedAt, r.UpdatedAt, r.Revision = nil, 0, nil, nil, 0
	}
	return messages(answer.GetReplicas(), err)
}

func (c *cluster) snapshotFacts(ctx context.Context) ([]proto.Message, error) {
	answer, err := c.api.Snapshots.ListSnapshots(ctx, &tarnv1.ListSnapshotsRequest{AllProjects: true})
	return messages(answer.GetSnapshots(), err)
}

func (c *cluster) ruleFacts(ctx context.Context) ([]proto.Message, error) {
	shares, err := c.api.Shares.ListShares(ctx, &tarnv1.ListSharesRequest{})
	if err != nil {
		return nil, err
	}
	var all []proto.Message
	for _, s := range shares.GetShares() {
		answer, err := c.api.AccessRules.ListAccessRules(ctx, &tarnv1.ListAccessRulesRequest{ShareId: s.GetId()})
		if err != nil {
			return nil, err
		}
		for _, rule := range answer.GetAccessRules() {
			all = append(all, rule)
		}
	}
	return all, nil
}

func (c *cluster) hostFacts(ctx context.Context) ([]proto.Message, error) {
	answer, err := c.api.Hosts.ListHosts(ctx, &tarnv1.ListHostsRequest{})
	var all []proto.Message
	for _, h := range answer.GetHosts() {
		all = append(all, &tarnv1.Host{Id: h.GetId(), Name: h.GetName(), AdminState: h.GetAdminState(), AvailabilityZone: h.GetAvailabilityZone()})
	}
	return all, err
}

// unchanged fails the test where the cluster's facts are no longer what they were.
func (c *cluster) unchanged(before string) {
	c.t.Helper()
	after, err := c.facts(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	if before != after {
		c.t.Errorf("the state changed:\n%s", firstDifference(before, after))
	}
}

func firstDifference(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d was %q, is %q", i+1, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines, then %d", len(a), len(b))
}

// replicaAt waits until the share has a replica in the zone that is as wanted.
func (c *cluster) replicaAt(share, zone string, wanted func(*tarnv1.Replica) error) *tarnv1.Replica {
	c.t.Helper()
	var found *tarnv1.Replica
	c.eventually(time.Minute, "replica of "+share+" in "+zone, func(ctx context.Context) error {
		replicas, err := c.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{ShareId: share})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(replicas.GetReplicas(), func(r *tarnv1.Replica) bool { return r.GetAvailabilityZone() == zone })
		if i < 0 {
			return fmt.Errorf("none of %d replicas is there", len(replicas.GetReplicas()))
		}
		found = replicas.GetReplicas()[i]
		return wanted(found)
	})
	return found
}

func isWritable(r *tarnv1.Replica) error {
	if r.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_ACTIVE || !r.GetObserved().GetWritable() || r.GetObserved().GetMountpoint() == "" {
		return fmt.Errorf("%s, %s, writable %t, mounted at %q", r.GetReplicaState(), r.GetStatus(), r.GetObserved().GetWritable(), r.GetObserved().GetMountpoint())
	}
	return nil
}

func isInSync(r *tarnv1.Replica) error {
	if r.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC || r.GetStatus() != tarnv1.Status_STATUS_AVAILABLE {
		return fmt.Errorf("%s, %s, lag %s, error %v", r.GetReplicaState(), r.GetStatus(), r.GetObserved().GetLag().AsDuration(), r.GetObserved().GetError())
	}
	return nil
}

// agentOf is the node that holds a replica.
func (c *cluster) agentOf(r *tarnv1.Replica) string {
	name, _, _ := strings.Cut(r.GetHost(), "@")
	return name
}

// poolDirs are the directories of an agent's pools.
func (c *cluster) poolDirs(agent string) []string {
	dirs, err := filepath.Glob(filepath.Join(c.Dir(), "nodes", agent, "pools", "*"))
	if err != nil {
		c.t.Fatal(err)
	}
	return dirs
}

// killAll ends every process at once, as a power failure would.
func (c *cluster) killAll(kinds ...dev.Kind) {
	c.t.Helper()
	for _, n := range c.Nodes() {
		if len(kinds) > 0 && !slices.Contains(kinds, n.Kind) {
			continue
		}
		if err := c.Kill(c.t.Context(), n.Name); err != nil && !errors.Is(err, os.ErrProcessDone) {
			c.t.Fatal(err)
		}
	}
}

// requireAll fails instead of skipping where TARN_REQUIRE_ALL=1 says so.
func requireAll(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("TARN_REQUIRE_ALL") == "1" {
		t.Fatal(reason)
	}
	t.Skip("SKIPPED: " + reason)
}
