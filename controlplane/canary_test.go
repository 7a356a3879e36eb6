package controlplane_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"tarn/controlplane"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// lockedBuffer takes a node's log.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestCanarySecretsStayInside (Nomad CVE-2019-12741, CVE-2024-12678) plants secrets and
// looks for them in every answer of every method for every role, in the log at its most
// talkative, in the metrics, the debug pages, the audit file and the replicated state.
func TestCanarySecretsStayInside(t *testing.T) {
	log := &lockedBuffer{}
	gossip := []byte("0123canary-gossip-key-0123456789")
	h := newHarness(t, 1, func(cfg *controlplane.Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		cfg.Admin.Pprof, cfg.Reflection = true, true
		cfg.Gossip.KeyFile = filepath.Join(cfg.DataDir, "gossip.key")
		if err := os.WriteFile(cfg.Gossip.KeyFile, gossip, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	h.raised()
	op := h.operator()
	canaries := map[string]string{
		"gossip key": string(gossip), "gossip key in hex": hex.EncodeToString(gossip), "gossip key in base64": base64.StdEncoding.EncodeToString(gossip),
	}
	cfg := h.nodes[0].cfg
	for _, name := range []string{identity.CAKeyFile, identity.NodeKeyFile} {
		text, err := os.ReadFile(filepath.Join(cfg.DataDir, "pki", name))
		if err != nil {
			t.Fatal(err)
		}
		canaries[name] = strings.Split(string(text), "\n")[1]
	}
	join, err := op.Operator.CreateJoinToken(t.Context(), &tarnv1.CreateJoinTokenRequest{Role: "agent"})
	if err != nil {
		t.Fatal(err)
	}
	user, err := op.Operator.CreateUser(t.Context(), &tarnv1.CreateUserRequest{Name: "ann", Role: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	canaries["join token"], canaries["user token"] = secretOf(join.GetToken()), secretOf(user.GetToken())

	var seen strings.Builder
	web := map[string]*http.Client{"stranger": {Transport: &http.Transport{TLSClientConfig: h.stranger()}}}
	for role, s := range map[string]identity.Subject{
		"operator": {Role: identity.RoleOperator}, "agent": {Role: identity.RoleAgent}, "control": {Role: identity.RoleControl},
		"member": {Role: identity.RoleClient, Project: "p", ProjectRole: identity.ProjectMember},
	} {
		web[role] = &http.Client{Transport: &http.Transport{TLSClientConfig: h.material(s).ClientConfig(identity.RoleControl)}}
	}
	for _, path := range procedures() {
		for role, c := range web {
			for _, body := range []string{"{}", `{"token":"` + join.GetToken() + `","nodeId":"` + uuid.NewString() + `"}`} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+cfg.Advertise+path, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/json")
				if role == "stranger" {
					req.Header.Set("Authorization", "Bearer x"+user.GetToken())
				}
				fetch(t, &seen, c, req)
			}
		}
	}
	for _, path := range []string{
		"/metrics", "/livez", "/readyz", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/config", "/../pki/ca.key",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+cfg.AdminSocket.Addr().String()+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		fetch(t, &seen, http.DefaultClient, req)
	}
	for _, c := range web {
		c.CloseIdleConnections()
	}
	var state bytes.Buffer
	if _, err := h.nodes[0].View().WriteTo(&state); err != nil {
		t.Fatal(err)
	}
	audited, err := os.ReadFile(filepath.Join(controlplane.AuditDir(cfg.DataDir), "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	if seen.Len() < 10_000 || len(log.String()) < 1000 || len(audited) < 1000 {
		t.Fatalf("too little to look at: %d, %d, %d bytes", seen.Len(), len(log.String()), len(audited))
	}
	for where, text := range map[string]string{"answers": seen.String(), "log": log.String(), "state": state.String(), "audit file": string(audited)} {
		for what, canary := range canaries {
			if strings.Contains(text, canary) {
				t.Errorf("the %s shows the %s", where, what)
			}
		}
	}
}

func secretOf(token string) string { return token[strings.LastIndexByte(token, '.')+1:] }

func fetch(t *testing.T, into *strings.Builder, c *http.Client, req *http.Request) {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(into, res.Body); err != nil {
		t.Fatal(err)
	}
	for name, values := range res.Header {
		into.WriteString(name + ": " + strings.Join(values, ",") + "\n")
	}
}

// procedures are the paths of all methods but the one that waits on purpose.
func procedures() []string {
	var out []string
	protoregistry.GlobalFiles.RangeFilesByPackage("tarn.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				out = append(out, "/"+string(s.FullName())+"/"+string(s.Methods().Get(j).Name()))
			}
		}
		return true
	})
	return out
}

// TestNothingIsReadableByOthers (Heketi CVE-2017-15104, etcd CVE-2020-15113): whatever a
// node writes is for its own user, certificates, log, snapshots and audit alike.
func TestNothingIsReadableByOthers(t *testing.T) {
	h := newHarness(t, 1, func(cfg *controlplane.Config) { cfg.Raft.SnapshotThreshold = 1 })
	h.leader()
	readableType(t, h.operator())
	h.nodes[0].stop(t)
	root := h.nodes[0].cfg.DataDir
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files++
		// What lies in a directory of ours that others cannot enter is out of their reach.
		direct := filepath.Dir(path) == root
		if d.IsDir() && direct && info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", path, info.Mode().Perm())
		}
		if !d.IsDir() && info.Mode().Perm()&0o077 != 0 && direct {
			t.Errorf("%s has mode %v", path, info.Mode().Perm())
		}
		return nil
	})
	if err != nil || files < 6 {
		t.Errorf("%d files, %v", files, err)
	}
}

// TestPlaintextAndWrongNames (Consul CVE-2018-19653): the port answers nobody without
// TLS, and no client of ours accepts a server that is not a control node.
func TestPlaintextAndWrongNames(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	res, err := http.Post("http://"+h.nodes[0].cfg.Advertise+"/tarn.v1.OperatorService/GetStatus", "application/json", strings.NewReader("{}"))
	if err == nil {
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusBadRequest || strings.Contains(string(text), "cluster") {
			t.Errorf("plaintext: %s %s", res.Status, text)
		}
	}
	wrong := h.material(identity.Subject{Role: identity.RoleOperator}).ClientConfig(identity.RoleAgent)
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: wrong}}
	defer web.CloseIdleConnections()
	if res, err := web.Get("https://" + h.nodes[0].cfg.Advertise); err == nil {
		res.Body.Close()
		t.Error("a control node was taken for an agent")
	}
}
