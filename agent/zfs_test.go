package agent

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/proto"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// newZFSHost is a host with one real pool.
func newZFSHost(t *testing.T, p *plane, ca *identity.CA) (*host, realzfs.Pool) {
	t.Helper()
	pool := realzfs.NewPool(t, 512)
	h := newHost(t, p, ca, "z")
	h.cfg.Storage, h.cfg.Backend = StorageZFS, ""
	h.cfg.Pools = []PoolConfig{{Name: pool.Name, Mountpoint: filepath.Join(pool.Dir, "shares"), ReplicationDomain: "d"}}
	return h, pool
}

// metric is the line of one metric in a scrape, "" if there is none.
func (h *host) metric(name string) string {
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(h.Registry(), promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, name+"{") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// health is that of the host's pool in the newest full report.
func (p *plane) health() string {
	for i := len(p.reports) - 1; i >= 0; i-- {
		for _, pool := range p.reports[i].GetPools() {
			return pool.GetHealth()
		}
	}
	return ""
}

// An agent starts without its pool, says so everywhere, and takes it up when it is
// imported; it survives an export under its feet, and loses nothing.
func TestPoolComesAndGoes(t *testing.T) {
	p, ca := newPlane(), newCA(t)
	h, pool := newZFSHost(t, p, ca)
	share, replica := ids(t)
	as := active(share, replica, 1)
	as.Pool = pool.Name
	h.assign(as)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(realzfs.Zpool("export", pool.Name))
	h.start()
	missing := func(when string) {
		t.Helper()
		r := p.await(t, replica, "told "+when, func(r *tarnv1.ReplicaReport) bool {
			return r.GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_POOL_UNAVAILABLE
		})
		if r.GetWritable() {
			t.Errorf("%s: %v", when, r)
		}
		p.until(t, func() bool { return p.health() == unavailable }, func() string { return when + ": the pool is reported as " + p.health() })
		eventually(t, when+": not ready", func() bool {
			err := h.Ready()
			return err != nil && strings.Contains(err.Error(), "zpool import "+pool.Name)
		})
		if line := h.metric("tarn_pool_healthy"); !strings.HasSuffix(line, " 0") {
			t.Errorf("%s: %s", when, line)
		}
	}
	back := func(when string) string {
		t.Helper()
		must(realzfs.Zpool("import", "-d", filepath.Dir(pool.File), pool.Name))
		mountpoint := p.await(t, replica, "writable "+when, writable).GetMountpoint()
		p.until(t, func() bool { return p.health() == "ONLINE" }, func() string { return when + ": the pool is reported as " + p.health() })
		must(h.Ready())
		p.until(t, func() bool { return p.hosts[h.id].GetPools()[0].GetGuid() != "" }, func() string { return "the pool was not registered again" })
		return mountpoint
	}
	missing("at the start")
	mountpoint := back("after the import")
	if filepath.Dir(mountpoint) != h.cfg.Pools[0].Mountpoint {
		t.Errorf("mounted at %s", mountpoint)
	}
	put(t, mountpoint, "f", "data")
	storage, err := zfs.Open(t.Context(), zfs.Config{Pools: []string{pool.Name}})
	must(err)
	if d, err := storage.Dataset(t.Context(), pool.Name+"/tarn/"+replica); err != nil || d.RefQuota != 1<<30 || d.Quota != 0 {
		t.Errorf("size in force: %+v, %v", d, err)
	}
	root, err := storage.Get(t.Context(), pool.Name+"/tarn/"+replica, propShareNFS, propSetuid, propDevices)
	must(err)
	for name, value := range root {
		if value.Value != "off" {
			t.Errorf("what a stream brings may do too much: %s is %v", name, value)
		}
	}
	established := proto.CloneOf(as)
	established.Established = true
	h.assign(established)
	must(realzfs.Export(pool, "-f"))
	missing("after an export")
	check(t, back("after the second import"), "f", "data")
}

// The dead-man does to a real pool what it does to a directory.
func TestZFSShareIsFencedWithoutItsAgent(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		t.Run(signal.String(), func(t *testing.T) {
			p, ca := newPlane(), newCA(t)
			h, _ := newZFSHost(t, p, ca)
			fencedWithoutItsAgent(t, p, h, p.serve(t, ca), signal)
		})
	}
}

// A machine without ZFS has an agent that says what is missing.
func TestWithoutZFSTheAgentSaysSo(t *testing.T) {
	p, ca := newPlane(), newCA(t)
	h := newHost(t, p, ca, "z")
	h.cfg.Storage, h.cfg.Backend = StorageZFS, ""
	h.cfg.Pools = []PoolConfig{{Name: "nowhere", ReplicationDomain: "d"}}
	if os.Geteuid() == 0 {
		h.cfg.Pools[0].Name = fmt.Sprintf("nowhere%d", os.Getpid()) // there may be a ZFS, without this pool
	}
	h.start()
	p.until(t, func() bool { return p.registered > 0 && p.health() == unavailable }, func() string { return "not registered with a missing pool" })
	if err := h.Ready(); err == nil {
		t.Error("ready without storage")
	}
}
