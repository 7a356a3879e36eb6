package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

func writable(r *tarnv1.ReplicaReport) bool { return r.GetReady() && r.GetWritable() }

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, dir, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
	}
}

func TestAgentRegistersAndServesAShare(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	h.start()
	r := p.await(t, replica, "writable", writable)
	if r.GetObservedRole() != tarnv1.Role_ROLE_ACTIVE || r.GetObservedEpoch() != 1 || r.GetAppliedSizeGib() != 1 || r.GetAppliedAccessRevision() != 3 {
		t.Errorf("report %v", r)
	}
	address, _, _ := strings.Cut(h.cfg.Advertise, ":")
	if len(r.GetExports()) != 1 || r.GetExports()[0].GetPath() != address+":"+r.GetMountpoint() {
		t.Errorf("exports %v of mountpoint %q", r.GetExports(), r.GetMountpoint())
	}
	put(t, r.GetMountpoint(), "f", "data")

	p.mu.Lock()
	host := p.hosts[h.id]
	p.mu.Unlock()
	if host.GetName() != "a" || host.GetAddress() != h.cfg.Advertise || host.GetBackend() != "dir" || host.GetSessionId() == "" ||
		host.GetFenceClass() != tarnv1.FenceClass_FENCE_CLASS_NONE || host.GetAvailabilityZone() != "az-a" {
		t.Errorf("registered as %v", host)
	}
	pool := host.GetPools()[0]
	if pool.GetTotalCapacityGib() <= 0 || pool.GetHealth() != "ONLINE" || len(pool.GetReplicationTypes()) != 2 || pool.GetMaxOverSubscriptionRatio() != 20 {
		t.Errorf("pool registered as %v", pool)
	}
	h.stop()
	if exists(filepath.Join(r.GetMountpoint(), "f")) {
		t.Error("share is still reachable after the agent ended")
	}
}

func TestRestartFindsItsData(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	h.start()
	put(t, p.await(t, replica, "writable", writable).GetMountpoint(), "f", "data")
	h.stop()
	p.mu.Lock()
	session := p.hosts[h.id].GetSessionId()
	delete(p.latest, replica)
	p.mu.Unlock()
	h.start()
	check(t, p.await(t, replica, "writable", writable).GetMountpoint(), "f", "data")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hosts[h.id].GetSessionId() == session {
		t.Error("session is the same after a restart")
	}
}

func TestLostLeaseSuspends(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	h.start()
	mountpoint := p.await(t, replica, "writable", writable).GetMountpoint()
	put(t, mountpoint, "f", "data")
	p.update(func() { p.noLeases = true })
	r := p.await(t, replica, "suspended", func(r *tarnv1.ReplicaReport) bool { return !r.GetWritable() })
	if r.GetObservedRole() != tarnv1.Role_ROLE_ACTIVE {
		t.Errorf("suspended as %v", r)
	}
	eventually(t, "unmounted", func() bool { return !exists(filepath.Join(mountpoint, "f")) })
	p.update(func() { p.noLeases = false })
	check(t, p.await(t, replica, "writable again", writable).GetMountpoint(), "f", "data")
}

func TestSecondaryFollowsOverTheWire(t *testing.T) {
	p := newPlane()
	ca := newCA(t)
	a, b := newHost(t, p, ca, "a"), newHost(t, p, ca, "b")
	share, first := ids(t)
	_, second := ids(t)
	owner := active(share, first, 1)
	owner.Peers = []*tarnv1.Peer{{ReplicaId: second, HostId: b.id}}
	a.assign(owner)
	copying := proto.CloneOf(owner)
	copying.ReplicaId, copying.Role, copying.Peers = second, tarnv1.Role_ROLE_SECONDARY, nil
	copying.Source = &tarnv1.Source{ReplicaId: first, HostId: a.id, Address: a.cfg.Advertise}
	copying.Exports.Rules[0].AccessLevel = tarnv1.AccessLevel_ACCESS_LEVEL_RO
	b.assign(copying)
	a.start()
	put(t, p.await(t, first, "writable", writable).GetMountpoint(), "f", "data")
	b.start()
	eventually(t, "copied", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		r := p.latest[second]
		return r.GetReady() && r.GetMountpoint() != "" && exists(filepath.Join(r.GetMountpoint(), "f"))
	})
	r := p.await(t, second, "in sync", func(r *tarnv1.ReplicaReport) bool { return r.GetLag() != nil && r.GetHeadGuid() != 0 })
	check(t, r.GetMountpoint(), "f", "data")
	if r.GetWritable() || r.GetObservedRole() != tarnv1.Role_ROLE_SECONDARY {
		t.Errorf("report of the secondary %v", r)
	}
	if n := testutil.ToFloat64(b.counters.TransferBytes.WithLabelValues(share, second, "receive")); n == 0 {
		t.Error("no bytes counted")
	}
}

// A replica that nobody assigns any more is kept, out of reach, and comes back
// with its data.
func TestOrphanIsHiddenNeverDestroyed(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	h.start()
	mountpoint := p.await(t, replica, "writable", writable).GetMountpoint()
	put(t, mountpoint, "f", "data")
	h.assign()
	eventually(t, "hidden", func() bool { return !exists(filepath.Join(mountpoint, "f")) })
	eventually(t, "counted", func() bool { return h.orphans.counts()["tank"] == 1 })
	p.until(t, func() bool {
		last := p.reports[len(p.reports)-1]
		return last.GetOrphansKnown() && last.GetOrphansRevision() == last.GetAssignmentsRevision() && len(last.GetUnknownReplicas()) == 1
	}, func() string { return "the control plane is not told of the orphan" })
	p.mu.Lock()
	told := p.reports[len(p.reports)-1].GetUnknownReplicas()[0]
	p.mu.Unlock()
	if told.GetReplicaId() != replica || told.GetShareId() != share || told.GetEpoch() != 1 || !told.GetPrimary() || told.GetPool() != "tank" {
		t.Errorf("told %v", told)
	}
	exports, err := h.exports.List(t.Context())
	if err != nil || len(exports) != 0 {
		t.Errorf("orphan is exported: %v, %v", exports, err)
	}
	again := active(share, replica, 1)
	again.Established = true
	p.update(func() { delete(p.latest, replica) })
	h.assign(again)
	check(t, p.await(t, replica, "writable again", writable).GetMountpoint(), "f", "data")
	eventually(t, "no orphan", func() bool { return h.orphans.counts()["tank"] == 0 })
}

func TestAssignmentsThatCannotBeFollowed(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	share, replica := ids(t)
	elsewhere := active(share, replica, 1)
	elsewhere.Pool = "nowhere"
	_, other := ids(t)
	unknown := active(share, other, 1)
	unknown.Role = tarnv1.Role_ROLE_UNSPECIFIED
	h.assign(elsewhere, unknown)
	h.start()
	r := p.await(t, replica, "refused", func(r *tarnv1.ReplicaReport) bool { return r.GetError() != nil })
	if r.GetError().GetCode() != tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_POOL_UNAVAILABLE || !strings.Contains(r.GetError().GetMessage(), "nowhere") {
		t.Errorf("error %v", r.GetError())
	}
	p.await(t, other, "refused", func(r *tarnv1.ReplicaReport) bool { return r.GetError() != nil })
}

func TestReportsAreOrderedAndFullWhenAsked(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	h.cfg.ReportInterval = 20 * 1e9 // nothing is full by itself
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	h.start()
	p.await(t, replica, "writable", writable)
	from := 0
	p.update(func() { p.wantFull, from = true, len(p.reports) })
	resized := active(share, replica, 1)
	resized.SizeGib = 2
	h.assign(resized) // makes the agent report
	full := func() *tarnv1.ReportRequest {
		for _, r := range p.reports[from:] {
			if r.GetFull() {
				return r
			}
		}
		return nil
	}
	p.until(t, func() bool { return full() != nil }, func() string { return "no full report" })
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := full(); len(r.GetReplicas()) != 1 || len(r.GetPools()) != 1 || r.GetPools()[0].GetHealth() != "ONLINE" || r.GetAssignmentsRevision() != p.revision {
		t.Errorf("full report %v", r)
	}
	for i := 1; i < len(p.reports); i++ {
		if p.reports[i].GetSequence() <= p.reports[i-1].GetSequence() || p.reports[i].GetSessionId() != h.session {
			t.Errorf("report %d has sequence %d after %d", i, p.reports[i].GetSequence(), p.reports[i-1].GetSequence())
		}
	}
	if p.reports[0].GetFull() && len(p.reports[0].GetReplicas()) == 0 {
		t.Error("the first report called itself full before the replica was looked at")
	}
}

func TestUnknownHostRegistersAgain(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	h.start()
	p.until(t, func() bool { return p.registered == 1 }, func() string { return "not registered" })
	p.update(func() { p.forgotten = true })
	p.until(t, func() bool { return p.registered == 2 }, func() string { return "not registered again" })
}

func TestOlderRevisionIsIgnored(t *testing.T) {
	p := newPlane()
	h := newHost(t, p, newCA(t), "a")
	share, replica := ids(t)
	p.revision = 100
	h.assign(active(share, replica, 1))
	h.start()
	p.await(t, replica, "writable", writable)
	polls := testutil.ToFloat64(h.counters.ControlRequests.WithLabelValues("Assignments", "ok"))
	p.update(func() { p.revision, p.assignments[h.id] = 50, nil })
	eventually(t, "asked again", func() bool {
		return testutil.ToFloat64(h.counters.ControlRequests.WithLabelValues("Assignments", "ok")) >= polls+2
	})
	if h.workers.assignment(replica) == nil {
		t.Error("an older set of assignments was followed")
	}
}

func TestIdentityIsTiedToTheData(t *testing.T) {
	p, ca := newPlane(), newCA(t)
	h := newHost(t, p, ca, "a")
	a, err := New(h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	issue(t, ca, filepath.Join(h.cfg.DataDir, "pki"), identity.RoleAgent)
	if _, err := New(h.cfg); err == nil || !strings.Contains(err.Error(), "data directory belongs to host "+h.id) {
		t.Errorf("another host's certificate gave %v", err)
	}
	issue(t, ca, filepath.Join(h.cfg.DataDir, "pki"), identity.RoleControl)
	if _, err := New(h.cfg); err == nil || !strings.Contains(err.Error(), "role control") {
		t.Errorf("a control node's certificate gave %v", err)
	}
}

// A host of the cluster that is not the share's peer gets nothing; nor does a
// control node, whose certificate is of the same authority.
func TestStreamsAreForPeersOnly(t *testing.T) {
	p, ca := newPlane(), newCA(t)
	h := newHost(t, p, ca, "a")
	share, replica := ids(t)
	h.assign(active(share, replica, 1))
	h.start()
	p.await(t, replica, "writable", writable)
	if _, err := h.workers.authorize("other", share, replica); err == nil {
		t.Error("a stranger was granted a stream")
	}
	if _, err := h.workers.authorize("other", "share", replica); err == nil {
		t.Error("another share's replica was granted")
	}
	with := active(share, replica, 1)
	with.Peers = []*tarnv1.Peer{{ReplicaId: "copy", HostId: "other"}}
	with.Cadence = durationpb.New(1e9)
	h.assign(with)
	eventually(t, "granted", func() bool {
		g, err := h.workers.authorize("other", share, replica)
		return err == nil && g.Dataset == "tank/tarn/"+replica && g.Epoch == 1 && len(g.Replicas) == 1
	})
}
