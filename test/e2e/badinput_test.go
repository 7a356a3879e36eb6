package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"tarn/cmd/tarn/dev"
	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

// Exit codes as docs/cli.md promises them.
const (
	codeUsage    = 2
	codeNotFound = 3
	codeRefused  = 4
	codeDenied   = 6
)

// refusal is a command that must not work.
type refusal struct {
	what   string
	args   []string
	code   int
	says   []string // each is in what it prints on stderr
	member bool     // run by a member of another project
}

const nobodysID = "01999999-9999-7999-8999-999999999999"

// What is wrong is refused by the real program with an exit code, the field and
// the rule, and leaves no trace.
func TestBadInput(t *testing.T) {
	c := start(t, dev.Options{Servers: 1, Agents: 2, Zones: 2})
	share := c.replicatedShare("web")
	member := c.memberOf("blue")
	// Small enough to be met on any disk before the pools have no room.
	c.must("quota", "set", "--gigabytes", "100")
	before, err := c.facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.refusals(share) {
		t.Run(r.what, func(t *testing.T) {
			config := c.ClientConfig()
			if r.member {
				config = member
			}
			c := c.in(t)
			r.check(t, c.tarnAs(config, r.args...))
			c.unchanged(before)
		})
	}
	t.Run("promotion of the active", func(t *testing.T) { c.in(t).promoteActive(before) })
	t.Run("every method", func(t *testing.T) { c.in(t).everyMethodRefuses(before) })
	t.Run("two promotions at once", func(t *testing.T) { c.in(t).twoPromotions(share) })
}

func (r refusal) check(t *testing.T, s said) {
	t.Helper()
	if s.code != r.code {
		t.Errorf("exit code %d, want %d", s.code, r.code)
	}
	if s.stdout != "" {
		t.Errorf("printed a result: %s", s.stdout)
	}
	for _, want := range r.says {
		if !strings.Contains(s.stderr, want) {
			t.Errorf("does not say %q:\n%.2000s", want, s.stderr)
		}
	}
}

// replicatedShare makes a share in az1 with copies in az2, one per pool, a
// snapshot and a rule, and waits for all of it.
func (c *cluster) replicatedShare(name string) (id string) {
	c.t.Helper()
	c.must("share-type", "create", "gold", "--replication-type", "readable", "--rpo", "10s", "-e", "snapshot_support=true")
	id = strings.TrimSpace(c.must("-q", "share", "create", name, "--type", "gold", "--size", "1", "--zone", "az1", "--wait"))
	c.must("replica", "create", name, "--zone", "az2", "--wait")
	c.must("replica", "create", name, "--zone", "az2", "--wait")
	c.must("access", "allow", name, "127.0.0.0/8", "--wait")
	c.must("snapshot", "create", name, "noon", "--wait")
	c.eventually(time.Minute, "three replicas are well", func(ctx context.Context) error { return c.allWell(ctx, 3) })
	return id
}

// memberOf joins as a client of a project by a token, as its user would.
func (c *cluster) memberOf(project string) (config string) {
	c.t.Helper()
	token := c.must("-q", "operator", "token", "create", "client", "--for-project", project, "--project-role", "member")
	dir := filepath.Join(c.t.TempDir(), project)
	address := c.Nodes()[0].Address()
	c.must("join", strings.TrimSpace(token), "--address", address, "--dir", dir)
	config = filepath.Join(filepath.Dir(dir), "client.toml")
	writeFile(c.t, config, "addresses = [\""+address+"\"]\npki = \""+dir+"\"\n")
	return config
}

func (c *cluster) refusals(share string) []refusal {
	long := strings.Repeat("a", 10_000)
	rule := strings.TrimSpace(c.must("-q", "access", "list", "web"))
	snapshot := strings.TrimSpace(c.must("-q", "snapshot", "list"))
	active := c.replicaAt(share, "az1", isWritable).GetId()
	all := []refusal{
		{what: "unknown extra spec", args: []string{"share-type", "create", "x", "-e", "tarn:rop=5s"}, code: codeUsage,
			says: []string{"extra_specs.tarn:rop", "is unknown", "tarn:rpo"}},
		{what: "retention that would depend on when it runs", args: []string{"share-type", "create", "x", "-e", "tarn:keep=24h:1h,30d:90m"}, code: codeUsage,
			says: []string{"extra_specs.tarn:keep", "multiple of the one before"}},
		{what: "retention to try that is none", args: []string{"share", "retention", "web", "--dry-run", "--keep", "1h"}, code: codeUsage, says: []string{"keep: must be a list"}},
		{what: "purge of nothing", args: []string{"replica", "divergent", "purge", "4711", "--reason", "x", "--yes"}, code: codeNotFound, says: []string{"no divergent copy"}},
		{what: "unreasoned purge", args: []string{"replica", "divergent", "purge", "4711", "--yes"}, code: codeUsage, says: []string{"--reason"}},
		{what: "unknown replication type", args: []string{"share-type", "create", "x", "--replication-type", "magic"}, code: codeUsage,
			says: []string{"extra_specs.replication_type", "readable"}},
		{what: "extra spec of a type in use", args: []string{"share-type", "set", "gold", "tarn:rpo=0s"}, code: codeUsage,
			says: []string{"extra_specs.tarn:rpo"}},
		{what: "type in use is deleted", args: []string{"share-type", "delete", "gold"}, code: codeRefused, says: []string{"share"}},
		{what: "negative size", args: []string{"share", "create", "x", "--type", "gold", "--size", "-1"}, code: codeUsage,
			says: []string{"size_gib: is -1 GiB, 1 to "}},
		{what: "size zero", args: []string{"share", "create", "x", "--type", "gold", "--size", "0"}, code: codeUsage, says: []string{"size_gib: is 0 GiB"}},
		{what: "name of 10,000 bytes", args: []string{"share", "create", long, "--type", "gold", "--size", "1"}, code: codeUsage,
			says: []string{"name: has 10000 bytes, at most 255 are allowed"}},
		{what: "control characters", args: []string{"share", "create", "a\x07b", "--type", "gold", "--size", "1"}, code: codeUsage,
			says: []string{"name: contains control characters"}},
		{what: "unknown type", args: []string{"share", "create", "x", "--type", "tin", "--size", "1"}, code: codeNotFound, says: []string{"tin"}},
		{what: "unknown zone", args: []string{"share", "create", "x", "--type", "gold", "--size", "1", "--zone", "az9"}, code: codeRefused,
			says: []string{"agent1@dir#tank", "zone"}},
		{what: "more than the quota", args: []string{"share", "create", "x", "--type", "gold", "--size", "120"}, code: codeRefused,
			says: []string{"gigabytes: limit 100, in use 1, requested 120"}},
		{what: "more than fits", args: []string{"share", "create", "x", "--type", "gold", "--size", "5000"}, code: codeRefused,
			says: []string{"capacity", "5000 GiB asked for"}},
		{what: "unknown id", args: []string{"share", "show", nobodysID}, code: codeNotFound, says: []string{nobodysID}},
		{what: "extend to less", args: []string{"share", "extend", "web", "1"}, code: codeUsage, says: []string{"new_size_gib"}},
		{what: "shrink to more", args: []string{"share", "shrink", "web", "5"}, code: codeUsage, says: []string{"new_size_gib"}},
		{what: "share with replicas is deleted", args: []string{"share", "delete", "web"}, code: codeRefused, says: []string{"replica"}},
		{what: "another replica where none fits", args: []string{"replica", "create", "web", "--zone", "az1"}, code: codeRefused, says: []string{"one_per_pool"}},
		{what: "last active replica is deleted", args: []string{"replica", "delete", active}, code: codeRefused, says: []string{"active"}},
		{what: "and by force", args: []string{"replica", "delete", active, "--force"}, code: codeRefused, says: []string{"active"}},
		{what: "consent without force", args: []string{"replica", "promote", "web/agent2@dir#pond", "--max-loss", "5s"}, code: codeUsage, says: []string{"--force"}},
		{what: "unreasoned failover", args: []string{"replica", "promote", "web/agent2@dir#pond", "--force"}, code: codeUsage, says: []string{"consent.reason", "is required"}},
		{what: "unreasoned attestation", args: []string{"replica", "promote", "web/agent2@dir#pond", "--force", "--attest-host-is-down"}, code: codeUsage,
			says: []string{"consent.reason"}},
		{what: "active by reset", args: []string{"replica", "reset-replica-state", "web/agent2@dir#pond", "active"}, code: codeUsage, says: []string{"replica_state"}},
		{what: "rubbish address", args: []string{"access", "allow", "web", "300.1.1.1"}, code: codeUsage, says: []string{"access_to: is not an address"}},
		{what: "host bits", args: []string{"access", "allow", "web", "10.0.0.1/8"}, code: codeUsage, says: []string{"access_to"}},
		{what: "same client twice", args: []string{"access", "allow", "web", "127.0.0.0/8"}, code: codeRefused, says: []string{"127.0.0.0/8"}},
		{what: "unknown quota", args: []string{"quota", "set", "--shares", "-2"}, code: codeUsage, says: []string{"limits: shares is -2"}},
		{what: "rubbish flag", args: []string{"share", "list", "--nonsense"}, code: codeUsage, says: []string{"--nonsense"}},
		{what: "host with replicas is removed", args: []string{"host", "remove", "agent1"}, code: codeRefused, says: []string{"replica"}},
	}
	return append(all, foreign(share, active, snapshot, rule)...)
}

// foreign are requests of another project's member for records of this one: the
// answer is the same as for what does not exist.
func foreign(share, replica, snapshot, rule string) []refusal {
	var all []refusal
	for _, f := range []struct {
		id   string
		args []string
	}{
		{share, []string{"share", "show", share}},
		{share, []string{"share", "delete", share}},
		{share, []string{"share", "extend", share, "2"}},
		{share, []string{"share", "set", share, "--name", "mine"}},
		{share, []string{"replica", "create", share}},
		{share, []string{"snapshot", "create", share, "mine"}},
		{share, []string{"share", "retention", share}},
		{share, []string{"replica", "divergent", "list", share}},
		{replica, []string{"replica", "show", replica}},
		{replica, []string{"replica", "promote", replica}},
		{replica, []string{"replica", "delete", replica}},
		{snapshot, []string{"snapshot", "show", snapshot}},
		{snapshot, []string{"snapshot", "delete", snapshot}},
		{rule, []string{"access", "deny", share, rule}},
	} {
		all = append(all, refusal{what: "another project's " + strings.Join(f.args[:2], " "), args: f.args,
			code: codeNotFound, says: []string{"does not exist"}, member: true})
	}
	return append(all,
		refusal{what: "member makes a type", args: []string{"share-type", "create", "x"}, code: codeDenied, says: []string{"may not call"}, member: true},
		refusal{what: "member lists copies of all projects", args: []string{"replica", "divergent", "list", "--all"}, code: codeDenied, says: []string{"all_projects is for operators"}, member: true},
		refusal{what: "member lists hosts", args: []string{"host", "list"}, code: codeDenied, says: []string{"may not call"}, member: true},
		refusal{what: "member deletes by force", args: []string{"replica", "delete", replica, "--force"}, code: codeDenied, says: []string{"force is for operators"}, member: true},
	)
}

// promoteActive is answered as Manila does: there is nothing to do, and nothing is done.
func (c *cluster) promoteActive(before string) {
	s := c.tarn("replica", "promote", "web/active")
	if s.code != 0 || !strings.Contains(s.stderr, "it is the active replica already") {
		c.t.Errorf("exit code %d: %s", s.code, s.stderr)
	}
	s = c.tarn("replica", "promote", "web/active", "--force", "--reason", "to see")
	if s.code != 0 || !strings.Contains(s.stderr, "it is the active replica already") {
		c.t.Errorf("by force: exit code %d: %s", s.code, s.stderr)
	}
	c.unchanged(before)
}

// twoPromotions asks for both secondaries at once: one wins, the other hears
// which promotion stands in its way, and the share ends with one active replica.
func (c *cluster) twoPromotions(share string) {
	list, err := c.api.Replicas.ListReplicas(c.t.Context(), &tarnv1.ListReplicasRequest{
		ShareId: share, ReplicaState: tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC,
	})
	if err != nil || len(list.GetReplicas()) != 2 {
		c.t.Fatalf("%d replicas are in_sync: %v", len(list.GetReplicas()), err)
	}
	var both sync.WaitGroup
	errs := make([]error, 2)
	for i, r := range list.GetReplicas() {
		both.Go(func() {
			_, errs[i] = c.api.Replicas.PromoteReplica(c.t.Context(), &tarnv1.PromoteReplicaRequest{Id: r.GetId()})
		})
	}
	both.Wait()
	winner := 0
	if errs[0] != nil {
		winner = 1
	}
	if errs[winner] != nil || errs[1-winner] == nil {
		c.t.Fatalf("want exactly one refused: %v; %v", errs[0], errs[1])
	}
	refused := errs[1-winner]
	fields := client.Violations(refused)
	if connect.CodeOf(refused) != connect.CodeFailedPrecondition || len(fields) == 0 || !strings.Contains(fields[0].GetRule(), "is running") {
		c.t.Errorf("refused with %v", refused)
	}
	c.eventually(time.Minute, "the promotion is complete", func(ctx context.Context) error {
		s, err := c.api.Shares.GetShare(ctx, &tarnv1.GetRequest{Id: share})
		if f := s.GetFencing(); err == nil && (f.GetOwnerReplicaId() != list.GetReplicas()[winner].GetId() || f.GetEpoch() != 2) {
			err = fmt.Errorf("owner %s under epoch %d", f.GetOwnerReplicaId(), f.GetEpoch())
		}
		return err
	})
	c.eventually(time.Minute, "one is active, two follow", func(ctx context.Context) error { return c.allWell(ctx, 3) })
}
