package cli_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rogpeppe/go-internal/testscript"

	"tarn/cmd/tarn/cli"
	"tarn/controlplane"
	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"tarn": func() {
			os.Exit(cli.Run(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// TestScripts runs every dialogue of testdata against a real control-plane node,
// with two hosts registered but no agents behind them.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			if filepath.Base(env.WorkDir) == "script-offline" {
				return nil
			}
			return newServer(t, env).start()
		},
	})
}

// server is one control-plane node for one script.
type server struct {
	t       *testing.T
	env     *testscript.Env
	ca      *identity.CA
	address string
}

func newServer(t *testing.T, env *testscript.Env) *server { return &server{t: t, env: env} }

func (s *server) path(parts ...string) string {
	return filepath.Join(append([]string{s.env.WorkDir, ".cluster"}, parts...)...)
}

func (s *server) start() error {
	var err error
	if s.ca, err = identity.NewCA("test"); err != nil {
		return err
	}
	if err := s.run(); err != nil {
		return err
	}
	for name, subject := range map[string]identity.Subject{
		"operator": {Role: identity.RoleOperator},
		"member":   {Role: identity.RoleClient, Project: "blue", ProjectRole: identity.ProjectMember},
		"reader":   {Role: identity.RoleClient, Project: "blue", ProjectRole: identity.ProjectReader},
	} {
		if err := s.user(name, subject); err != nil {
			return err
		}
	}
	s.env.Setenv("TARN_CONFIG", s.path("operator.toml"))
	s.env.Setenv("MEMBER", s.path("member.toml"))
	s.env.Setenv("READER", s.path("reader.toml"))
	s.env.Setenv("ADDRESS", s.address)
	s.env.Setenv("LONG", longName())
	return s.registerHosts()
}

func longName() string {
	b := make([]byte, 10_000)
	for i := range b {
		b[i] = 'a'
	}
	return string(b)
}

func (s *server) issue(dir string, subject identity.Subject) error {
	if subject.ID == "" {
		subject.ID = uuid.NewString()
	}
	cert, key, err := s.ca.IssueKey(subject)
	if err != nil {
		return err
	}
	return identity.SaveNode(dir, s.ca.CertPEM(), cert, key)
}

func (s *server) user(name string, subject identity.Subject) error {
	if err := s.issue(s.path(name), subject); err != nil {
		return err
	}
	return cli.WriteClientConfig(s.path(name+".toml"), cli.ClientConfig{Addresses: []string{s.address}, PKI: name})
}

// run starts the node; it ends with the script.
func (s *server) run() error {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.address = socket.Addr().String()
	id, err := controlplane.NodeID(s.path("data"))
	if err != nil {
		return err
	}
	if err := s.issue(s.path("node"), identity.Subject{Role: identity.RoleControl, ID: id}); err != nil {
		return err
	}
	if err := s.ca.Save(s.path("node")); err != nil {
		return err
	}
	node, err := controlplane.New(controlplane.Config{
		DataDir: s.path("data"), PKIDir: s.path("node"), Listen: s.address, Advertise: s.address, BootstrapExpect: 1,
		Hosts:  controlplane.HostsConfig{TTL: time.Hour, ReportInterval: time.Minute},
		Raft:   controlplane.RaftConfig{HeartbeatTimeout: 200 * time.Millisecond},
		Log:    controlplane.LogConfig{Level: "error"},
		Socket: socket, AdminSocket: admin,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- node.Run(ctx) }()
	s.env.Defer(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("control-plane node: %v", err)
		}
	})
	return nil
}

// registerHosts announces two hosts in two zones, as their agents would.
func (s *server) registerHosts() error {
	for i, zone := range []string{"az1", "az2"} {
		id := uuid.NewString()
		name := "host" + string(rune('1'+i))
		if err := s.issue(s.path(name), identity.Subject{Role: identity.RoleAgent, ID: id}); err != nil {
			return err
		}
		if err := s.register(name, id, zone); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) register(name, id, zone string) error {
	material, err := identity.LoadMaterial(s.path(name))
	if err != nil {
		return err
	}
	api, err := client.New(client.Config{Addresses: []string{s.address}, TLS: material.ClientConfig(identity.RoleControl)})
	if err != nil {
		return err
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	session := uuid.NewString()
	_, err = api.Agent.Register(ctx, &tarnv1.RegisterRequest{Host: &tarnv1.Host{
		Id: id, Name: name, AvailabilityZone: zone, Address: "127.0.0.1:1", Backend: "dir", SessionId: session,
		FenceClass: tarnv1.FenceClass_FENCE_CLASS_HELPER,
		Pools: []*tarnv1.Pool{{
			Name: "tank", Guid: "1", ReplicationDomain: "test", TotalCapacityGib: 100, FreeCapacityGib: 100,
			ReplicationTypes: []tarnv1.ReplicationType{tarnv1.ReplicationType_REPLICATION_TYPE_READABLE, tarnv1.ReplicationType_REPLICATION_TYPE_DR},
			ThinProvisioning: true, MaxOverSubscriptionRatio: 1, StorageProtocol: "NFS", Health: "ONLINE",
		}},
	}})
	if err != nil {
		return err
	}
	_, err = api.Agent.Report(ctx, &tarnv1.ReportRequest{HostId: id, SessionId: session, Sequence: 1, Full: true,
		FenceClass: tarnv1.FenceClass_FENCE_CLASS_HELPER,
		Pools:      []*tarnv1.PoolReport{{Name: "tank", TotalCapacityGib: 100, FreeCapacityGib: 100, Health: "ONLINE"}}})
	return err
}
