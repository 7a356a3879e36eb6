package api_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// methods walks every method of every service of tarn.v1.
func methods(t testing.TB) []protoreflect.MethodDescriptor {
	t.Helper()
	var out []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("tarn.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				out = append(out, s.Methods().Get(j))
			}
		}
		return true
	})
	if len(out) < 60 {
		t.Fatalf("found only %d methods", len(out))
	}
	return out
}

func procedure(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

// allowed states who may call a method, from its name alone: written down apart
// from the table that it checks.
func allowed(m protoreflect.MethodDescriptor) []string {
	service, name := string(m.Parent().Name()), string(m.Name())
	people := []string{"reader", "member", "operator"}
	switch {
	case name == "Join":
		return append(people, "agent", "control", "nobody")
	case name == "Renew":
		return append(people, "agent", "control")
	case service == "AgentService":
		return []string{"agent"}
	case name == "GetStatus":
		return append(people, "agent", "control")
	case name == "Hello", name == "ExchangeGossip":
		return []string{"control"}
	case name == "AddRaftServer":
		return []string{"operator", "control"}
	case service == "OperatorService":
		return []string{"operator"}
	case strings.HasSuffix(name, "UnknownReplica"), strings.HasSuffix(name, "UnknownReplicas"):
		return []string{"operator"}
	case service == "HostService" && name != "ListAvailabilityZones":
		return []string{"operator"}
	case strings.HasPrefix(name, "Get"), strings.HasPrefix(name, "List"):
		return people
	case service == "ShareTypeService", strings.HasPrefix(name, "Reset"), strings.HasPrefix(name, "Resync"), name == "UpdateQuota",
		strings.HasPrefix(name, "Purge"), strings.HasPrefix(name, "Manage"), strings.HasPrefix(name, "Unmanage"):
		return []string{"operator"}
	}
	return []string{"member", "operator"}
}

func TestRolesMatrix(t *testing.T) {
	s := newServer(t)
	callers := map[string]*tls.Config{
		"reader":   s.tls(identity.Subject{Role: identity.RoleClient, Project: "blue", ProjectRole: identity.ProjectReader}),
		"member":   s.tls(memberSubject("blue")),
		"operator": s.tls(operatorSubject()),
		"agent":    s.tls(identity.Subject{Role: identity.RoleAgent}),
		"control":  s.tls(identity.Subject{Role: identity.RoleControl}),
		"nobody":   anonymous(s),
	}
	for role, conf := range callers {
		web := httpClient(t, conf)
		for _, m := range methods(t) {
			got := post(t, web, s.addr, procedure(m), dynamicpb.NewMessage(m.Input()))
			may := slices.Contains(allowed(m), role)
			switch {
			case role == "nobody" && !may && got.code != connect.CodeUnauthenticated.String():
				t.Errorf("%s as nobody: %s", m.FullName(), got.code)
			case role != "nobody" && !may && (got.code != connect.CodePermissionDenied.String() || !strings.Contains(got.message, "may not call")):
				t.Errorf("%s as %s: %s %s", m.FullName(), role, got.code, got.message)
			case may && (got.code == connect.CodeUnauthenticated.String() || strings.Contains(got.message, "may not call")):
				t.Errorf("%s as %s: %s %s", m.FullName(), role, got.code, got.message)
			}
		}
	}
}

// anonymous trusts the server and shows no certificate.
func anonymous(s *server) *tls.Config {
	conf := s.tls(operatorSubject())
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	return conf
}

func TestReflectionIsForOperators(t *testing.T) {
	s := newServer(t)
	const path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	for role, want := range map[*tls.Config]bool{s.tls(memberSubject("blue")): false, s.tls(operatorSubject()): true} {
		res, err := httpClient(t, role).Post("https://"+s.addr+path, "application/grpc", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		refused := res.Header.Get("Grpc-Status")+res.Trailer.Get("Grpc-Status") == "7"
		if refused == want {
			t.Errorf("refused %v, want %v", refused, !want)
		}
	}
}

func TestOperatorsFields(t *testing.T) {
	s := newServer(t)
	user := s.member("blue")
	id := "7f2c8a4e-0f0c-4f5e-9d3a-000000000001"
	yes := true
	for field, call := range map[string]func() error{
		"only_host": func() error {
			_, err := user.Shares.CreateShare(t.Context(), &tarnv1.CreateShareRequest{SizeGib: 1, OnlyHost: "one@dir#tank"})
			return err
		},
		"force": func() error {
			_, err := user.Replicas.DeleteReplica(t.Context(), &tarnv1.DeleteReplicaRequest{Id: id, Force: true})
			return err
		},
		"attest_host_is_down": func() error {
			_, err := user.Replicas.PromoteReplica(t.Context(), &tarnv1.PromoteReplicaRequest{Id: id, AttestHostIsDown: true})
			return err
		},
		"all_projects": func() error {
			_, err := user.Shares.ListShares(t.Context(), &tarnv1.ListSharesRequest{AllProjects: true})
			return err
		},
		"host": func() error {
			_, err := user.Replicas.ListReplicas(t.Context(), &tarnv1.ListReplicasRequest{Host: "one"})
			return err
		},
		"is_public": func() error {
			_, err := user.Shares.UpdateShare(t.Context(), &tarnv1.UpdateShareRequest{Id: id, IsPublic: &yes})
			return err
		},
	} {
		err := call()
		if connect.CodeOf(err) != connect.CodePermissionDenied || !strings.Contains(err.Error(), "field "+field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
