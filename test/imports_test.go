package test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// arrows is the package map: what each package may import of tarn. An entry
// covers the packages below it unless they have their own.
var arrows = map[string][]string{
	// controlplane/backup, controlplane/audit: saved states and audit files are read without a cluster.
	"cmd/tarn": {"cmd/tarn", "controlplane", "controlplane/audit", "controlplane/backup", "controlplane/client", "controlplane/identity", "controlplane/schedule",
		"agent", "agent/lease", "zfs/dirzfs", "metrics", "proto/tarn/v1"},
	"controlplane": {"controlplane/api", "controlplane/audit", "controlplane/backup", "controlplane/policy", "controlplane/client", "controlplane/consensus", "controlplane/identity", "controlplane/observe",
		"controlplane/reconcile", "controlplane/assignment", "controlplane/schedule", "controlplane/stonith", "controlplane/manila", "controlplane/web",
		"raftfsm", "agent/gossip", "metrics", "proto/tarn/v1", "proto/tarn/raft/v1"},
	"controlplane/api": {"controlplane/audit", "controlplane/backup", "controlplane/consensus", "controlplane/identity", "controlplane/observe", "controlplane/assignment",
		"controlplane/reconcile", "controlplane/schedule", "controlplane/client", "controlplane/policy", "raftfsm", "proto/tarn/v1", "proto/tarn/raft/v1"},
	"controlplane/policy":     {},
	"controlplane/audit":      {"raftfsm", "proto/tarn/v1", "proto/tarn/raft/v1"},
	"controlplane/assignment": {"raftfsm", "proto/tarn/v1", "controlplane/schedule"},
	"controlplane/backup":     {"raftfsm"},
	"controlplane/client":     {"proto/tarn/v1"},
	"controlplane/consensus":  {"raftfsm", "proto/tarn/v1", "proto/tarn/raft/v1", "controlplane/identity"},
	"controlplane/identity":   {},
	"controlplane/observe":    {"proto/tarn/v1"},
	"controlplane/reconcile": {"controlplane/schedule", "controlplane/observe", "controlplane/assignment", "controlplane/consensus",
		"raftfsm", "proto/tarn/v1", "proto/tarn/raft/v1"},
	"controlplane/schedule": {"proto/tarn/v1"},
	"controlplane/stonith":  {}, // starts other people's programs: it is to know nothing else
	"raftfsm":               {"proto/tarn/v1", "proto/tarn/raft/v1"},
	"raftfsm/fsmtest":       {"raftfsm", "proto/tarn/v1", "proto/tarn/raft/v1"},
	"zfs/durable":           {}, // small files that outlast a crash, for whoever keeps some
	"agent": {"agent/export", "agent/gossip", "agent/keys", "agent/lease", "agent/privsep", "agent/replicate", "agent/stream", "controlplane/client",
		"controlplane/identity", "zfs/durable", "metrics", "zfs", "zfs/dirzfs", "proto/tarn/v1"},
	"agent/export":      {"agent/export", "agent/export/nfs3", "zfs/durable", "proto/tarn/v1"},
	"agent/export/nfs3": {},
	"agent/gossip":      {"zfs/durable", "proto/tarn/v1"},
	"agent/keys":        {"zfs/durable"}, // names of files, for the storage to read: nobody is to see their content
	"agent/lease":       {"zfs/durable", "proto/tarn/v1"},
	"agent/privsep":     {"agent/export", "zfs", "proto/tarn/v1"}, // the helper serves exports and starts zfs; nothing decides there
	"agent/replicate":   {"agent/stream", "zfs", "proto/tarn/v1"},
	"agent/stream":      {"zfs", "proto/tarn/v1"},
	"metrics":           {},
	"proto":             {"proto"},
	"zfs":               {},
	"zfs/dirzfs":        {"zfs/durable", "zfs", "zfs/dirzfs"},
	"zfs/zfstest":       {"zfs"},
	"test":              {"cmd/tarn", "test", "controlplane", "agent", "zfs", "raftfsm", "proto", "metrics"},
}

// modules lists what outside tarn and the standard library the pure packages may use.
var modules = map[string][]string{
	"raftfsm":               {"github.com/hashicorp/raft", "github.com/google/btree", "google.golang.org/protobuf"},
	"controlplane/schedule": {"google.golang.org/protobuf"},
	"controlplane/policy":   {"go.yaml.in/yaml/v3"},
	"zfs":                   {},
	"metrics":               {"github.com/prometheus", "github.com/hashicorp/go-metrics"},
	// Record marking and credentials of RPC are a library's; its NFS messages know ASCII names only.
	"agent/export/nfs3": {"github.com/buildbarn/go-xdr", "golang.org/x/sync", "golang.org/x/sys"},
	// Ganesha is told what to serve over D-Bus; an fsid is a UUID.
	"agent/export":          {"google.golang.org/protobuf", "golang.org/x/sys", "github.com/godbus/dbus/v5", "github.com/google/uuid"},
	"controlplane/identity": {"github.com/google/uuid"},
}

type listed struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Standard", "tarn/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		all = append(all, p)
	}
}

// longest finds the entry for path or its nearest parent.
func longest[V any](table map[string]V, path string) (string, bool) {
	for p := path; p != ""; {
		if _, ok := table[p]; ok {
			return p, true
		}
		cut := strings.LastIndexByte(p, '/')
		if cut < 0 {
			break
		}
		p = p[:cut]
	}
	return "", false
}

// within tells whether path is one of roots or below one.
func within(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+"/")
	})
}

// allowed judges one import of a tarn package by another.
func allowed(from, to string) bool {
	entry, ok := longest(arrows, from)
	if !ok {
		return false
	}
	for _, target := range arrows[entry] {
		if to == target {
			return true
		}
		// proto packages come as tarnv1 and tarnv1connect below the folder.
		if strings.HasPrefix(target, "proto") && within(to, []string{target}) {
			return true
		}
		// cmd/tarn, test and an engine are free inside themselves; tests may see all.
		if within(from, []string{target}) && within(to, []string{target}) {
			return true
		}
		if entry == "test" && within(to, []string{target}) {
			return true
		}
	}
	return false
}

func TestImportArrows(t *testing.T) {
	for _, p := range packages(t) {
		from, ours := strings.CutPrefix(p.ImportPath, "tarn/")
		if !ours {
			continue
		}
		for _, imported := range p.Imports {
			to, inside := strings.CutPrefix(imported, "tarn/")
			if inside && !allowed(from, to) {
				t.Errorf("%s must not import %s: not an arrow of the package map", from, to)
			}
			if !inside {
				checkModule(t, from, imported)
			}
		}
	}
}

func checkModule(t *testing.T, from, imported string) {
	t.Helper()
	entry, restricted := longest(modules, from)
	if !restricted || !strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") {
		return
	}
	// A leaf's rule is its own: zfs does not speak for zfs/dirzfs.
	if entry == from && !within(imported, modules[entry]) {
		t.Errorf("%s must not import %s: it may use %v and the standard library", from, imported, modules[entry])
	}
}

func TestArrowsOfTheMapAreJudged(t *testing.T) {
	forbidden := [][2]string{
		{"agent", "controlplane"}, {"agent", "controlplane/api"}, {"controlplane", "zfs"}, {"controlplane", "agent"},
		{"raftfsm", "controlplane/schedule"}, {"zfs", "proto/tarn/v1"}, {"metrics", "raftfsm"}, {"controlplane/schedule", "raftfsm"},
		{"controlplane/client", "controlplane/api"}, {"agent/stream", "agent/replicate"},
	}
	for _, f := range forbidden {
		if allowed(f[0], f[1]) {
			t.Errorf("%s -> %s is forbidden by the map but would pass", f[0], f[1])
		}
	}
	if !allowed("controlplane/api", "raftfsm") || !allowed("raftfsm", "proto/tarn/raft/v1") || !allowed("agent", "controlplane/client") {
		t.Error("an arrow of the map would be refused")
	}
}
