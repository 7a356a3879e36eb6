package encryption

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"tarn/cmd/tarn/cli"
	"tarn/cmd/tarn/dev"
	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := cli.Run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// patience with the emulated machine.
const patience = 5 * time.Minute

const text = "a sentence that only who has the key may read. "

// rig is a cluster with one encrypted share.
type rig struct {
	*dev.Cluster
	t     *testing.T
	api   *client.Client
	share string
}

func start(t *testing.T) *rig {
	t.Helper()
	if os.Getenv("TARN_VM") == "" {
		t.Skip("encryption needs the kernel's OpenZFS: make test-kernel")
	}
	binary, err := os.Executable()
	must(t, err)
	processes, err := dev.Create(t.TempDir(), binary, dev.Options{Servers: 1, Agents: 2, Zones: 2, Storage: "zfs"})
	must(t, err)
	r := &rig{Cluster: processes, t: t}
	t.Cleanup(r.end)
	r.calm()
	must(t, r.StartAll())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, r.Ready(ctx))
	r.api, err = r.Client()
	must(t, err)
	t.Cleanup(r.api.Close)
	return r
}

// calm gives the cluster clocks for a machine that is emulated on a busy one, and no
// gossip: it is nothing but a hint.
func (r *rig) calm() {
	r.t.Helper()
	for _, n := range r.Nodes() {
		path := filepath.Join(r.Dir(), "config", n.Name+".toml")
		cfg := map[string]any{}
		_, err := toml.DecodeFile(path, &cfg)
		must(r.t, err)
		delete(cfg, "gossip")
		lease := map[string]any{"duration": "2m", "renew": "5s", "margin": "20s"}
		if n.Kind == dev.Control {
			lease["wait"] = "130s"
			cfg["raft"] = map[string]any{"heartbeat_timeout": "20s", "promote_after": "2s"}
			cfg["hosts"] = map[string]any{"ttl": "1m", "report_interval": "5s"}
		}
		cfg["lease"] = lease
		text, err := toml.Marshal(cfg)
		must(r.t, err)
		must(r.t, os.WriteFile(path, text, 0o600))
	}
}

func (r *rig) end() {
	if r.t.Failed() {
		for _, n := range r.Nodes() {
			r.t.Logf("--- %s\n%s", n.Name, r.LogTail(n.Name, 25))
		}
	}
	if err := errors.Join(r.TerminateAll(context.Background()), r.Remove()); err != nil {
		r.t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create makes the type, a share of it and waits until clients can write.
func (r *rig) create() *tarnv1.Replica {
	r.t.Helper()
	_, err := r.api.ShareTypes.CreateShareType(r.t.Context(), &tarnv1.CreateShareTypeRequest{Name: "safe", ExtraSpecs: map[string]string{
		"driver_handles_share_servers": "false", "replication_type": "readable", "tarn:encryption": "on", "tarn:rpo": "20s",
	}})
	must(r.t, err)
	share, err := r.api.Shares.CreateShare(r.t.Context(), &tarnv1.CreateShareRequest{Name: "secrets", SizeGib: 1, ShareType: "safe"})
	must(r.t, err)
	r.share = share.GetId()
	return r.until("the share can be written", writable)
}

func writable(x *tarnv1.Replica) bool {
	return x.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_ACTIVE && x.GetObserved().GetWritable() && x.GetObserved().GetMountpoint() != ""
}

func inSync(x *tarnv1.Replica) bool {
	return x.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC
}

// until waits for a replica that ok accepts.
func (r *rig) until(what string, ok func(*tarnv1.Replica) bool) *tarnv1.Replica {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for last := ""; ; {
		answer, err := r.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{ShareId: r.share})
		for _, x := range answer.GetReplicas() {
			if ok(x) {
				return x
			}
		}
		if err == nil {
			last = fmt.Sprint(answer.GetReplicas())
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("never: %s: %v\n%s", what, err, last)
		case <-tick.C:
		}
	}
}

// is follows one replica.
func is(id string, ok func(*tarnv1.Replica) bool) func(*tarnv1.Replica) bool {
	return func(x *tarnv1.Replica) bool { return x.GetId() == id && ok(x) }
}

// file is the share's file as its host sees it.
func (r *rig) file(x *tarnv1.Replica) string {
	r.t.Helper()
	node, _, _ := strings.Cut(x.GetHost(), "@")
	dir, err := r.See(node, x.GetObserved().GetMountpoint())
	must(r.t, err)
	return filepath.Join(dir, "file")
}

func (r *rig) write(x *tarnv1.Replica, more string) {
	r.t.Helper()
	f, err := os.OpenFile(r.file(x), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	must(r.t, err)
	_, err = f.WriteString(strings.Repeat(more, 5000))
	must(r.t, errors.Join(err, f.Sync(), f.Close()))
}

// reads waits until a replica shows what is expected of the file.
func (r *rig) reads(x *tarnv1.Replica, parts ...string) {
	r.t.Helper()
	want := ""
	for _, p := range parts {
		want += strings.Repeat(p, 5000)
	}
	r.until("replica "+x.GetId()+" shows the data", is(x.GetId(), func(x *tarnv1.Replica) bool {
		if x.GetObserved().GetMountpoint() == "" {
			return false
		}
		got, err := os.ReadFile(r.file(x))
		return err == nil && string(got) == want
	}))
}

func (r *rig) promote(x *tarnv1.Replica, force bool) error {
	req := &tarnv1.PromoteReplicaRequest{Id: x.GetId(), Force: force}
	if force {
		req.Consent = &tarnv1.Consent{Reason: "test"}
	}
	_, err := r.api.Replicas.PromoteReplica(r.t.Context(), req)
	return err
}

// traces lists the files below dir that contain a piece of data, live file systems
// left out: what matters is what lies on disks and in logs.
func traces(t *testing.T, dir string, data []byte) (found []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "mnt":
			return filepath.SkipDir
		case !d.Type().IsRegular() || strings.HasSuffix(path, ".key"):
			return nil
		}
		has, err := contains(path, data)
		if has {
			found = append(found, path)
		}
		return err
	}))
	return found
}

// contains searches a file, and skips its holes.
func contains(path string, data []byte) (bool, error) {
	const seekData, piece = 3, 1 << 20
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf := make([]byte, piece+len(data))
	for at := int64(0); ; at += piece {
		next, err := f.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return false, nil // nothing but a hole
		}
		if err != nil {
			return false, err
		}
		at = max(at, next/piece*piece)
		n, err := f.ReadAt(buf, at)
		if bytes.Contains(buf[:n], data) {
			return true, nil
		}
		if err != nil {
			return false, nil //nolint:nilerr // the end
		}
	}
}

// TestEncryptedShare is the whole life: made, copied to a host without the key, refused
// there, given the key, promoted, and back.
func TestEncryptedShare(t *testing.T) {
	r := start(t)
	a := r.create()
	r.write(a, text)
	keyFile := a.GetObserved().GetKeyFile()
	key, err := os.ReadFile(keyFile)
	must(t, err)
	if info, err := os.Stat(keyFile); err != nil || info.Mode() != 0o600 || len(key) != 32 {
		t.Fatalf("key of %d bytes, %v, %v", len(key), info, err)
	}
	made, err := r.api.Replicas.CreateReplica(t.Context(), &tarnv1.CreateReplicaRequest{ShareId: r.share})
	must(t, err)
	b := r.until("the copy is in sync without its key", is(made.GetId(), inSync))
	if b.GetObserved().GetKeyState() != tarnv1.KeyState_KEY_STATE_MISSING || b.GetObserved().GetMountpoint() != "" || b.GetObserved().GetError() != nil {
		t.Errorf("the copy is %v", b.GetObserved())
	}

	target := b.GetObserved().GetKeyFile()
	for _, force := range []bool{false, true} {
		err := r.promote(b, force)
		if err == nil || !strings.Contains(err.Error(), target) || !strings.Contains(err.Error(), "nothing was stopped") {
			t.Errorf("promotion without the key (force %v): %v", force, err)
		}
	}
	if a = r.until("still written here", is(a.GetId(), writable)); a.GetObserved().GetObservedEpoch() != 1 {
		t.Errorf("the refusals left %v", a.GetObserved())
	}
	must(t, os.WriteFile(target, bytes.Repeat([]byte("x"), 32), 0o600))
	r.until("a key that does not fit is told", is(b.GetId(), func(x *tarnv1.Replica) bool {
		return x.GetObserved().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_KEY_UNAVAILABLE
	}))
	if err := r.promote(b, false); err == nil {
		t.Error("promoted with a key that does not fit")
	}

	must(t, os.WriteFile(target, key, 0o600))
	r.reads(b, text)
	must(t, r.promote(b, false))
	b = r.until("promoted", is(b.GetId(), writable))
	r.write(b, "b wrote this. ")
	a = r.until("the former active follows", is(a.GetId(), inSync))
	r.reads(a, text, "b wrote this. ")
	must(t, r.promote(a, false))
	a = r.until("failed back", is(a.GetId(), writable))
	r.write(a, "and a again. ")
	r.until("in sync again", is(b.GetId(), inSync))
	r.reads(b, text, "b wrote this. ", "and a again. ")

	for what, data := range map[string][]byte{"text": []byte(text), "key": key, "key in hex": fmt.Appendf(nil, "%x", key)} {
		if found := traces(t, r.Dir(), data); len(found) > 0 {
			t.Errorf("%s lies in %v", what, found)
		}
	}
	r.scrub()
}

// scrub reads everything on the pools; none may have an error.
func (r *rig) scrub() {
	r.t.Helper()
	for _, n := range r.Nodes() {
		for _, pool := range n.Pools {
			for _, args := range [][]string{{"scrub", "-w", pool}, {"status", "-v", pool}} {
				out, err := exec.CommandContext(r.t.Context(), "zpool", args...).CombinedOutput()
				if err != nil || args[0] == "status" && !strings.Contains(string(out), "No known data errors") {
					r.t.Errorf("zpool %v: %v\n%s", args, err, out)
				}
			}
		}
	}
}
