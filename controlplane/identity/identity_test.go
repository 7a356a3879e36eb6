package identity

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
)

const testID = "01890a5d-ac96-774b-bcce-b302099a8057"

func uris(t *testing.T, texts ...string) []*url.URL {
	t.Helper()
	var out []*url.URL
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

func TestFromCertificateAccepts(t *testing.T) {
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(0xbeef),
		Subject:      pkix.Name{Organization: []string{"p1"}, OrganizationalUnit: []string{"reader"}},
		URIs:         uris(t, "spiffe://c.example/client/"+testID),
	}
	got, err := FromCertificate(cert)
	want := Identity{Cluster: "c.example", Role: RoleClient, ID: testID, Project: "p1", ProjectRole: "reader", Serial: "beef"}
	if err != nil || got != want {
		t.Fatalf("got %+v, %v; want %+v", got, err, want)
	}
	if got.URI() != "spiffe://c.example/client/"+testID {
		t.Fatalf("URI %q", got.URI())
	}
}

func TestFromCertificateRefuses(t *testing.T) {
	good := "spiffe://c/control/" + testID
	project := pkix.Name{Organization: []string{"p"}, OrganizationalUnit: []string{"member"}}
	for name, cert := range map[string]*x509.Certificate{
		"no uri":             {},
		"two uris":           {URIs: uris(t, good, "spiffe://c/agent/"+testID)},
		"same uri twice":     {URIs: uris(t, good, good)},
		"authority":          {IsCA: true, URIs: uris(t, good)},
		"other scheme":       {URIs: uris(t, "https://c/control/"+testID)},
		"unknown role":       {URIs: uris(t, "spiffe://c/admin/"+testID)},
		"role in capitals":   {URIs: uris(t, "spiffe://c/Control/"+testID)},
		"no cluster":         {URIs: uris(t, "spiffe:///control/"+testID)},
		"cluster with port":  {URIs: uris(t, "spiffe://c:1/control/"+testID)},
		"user":               {URIs: uris(t, "spiffe://u@c/control/"+testID)},
		"query":              {URIs: uris(t, good+"?a=b")},
		"empty query":        {URIs: uris(t, good+"?")},
		"fragment":           {URIs: uris(t, good+"#f")},
		"longer path":        {URIs: uris(t, good+"/x")},
		"escaped path":       {URIs: uris(t, "spiffe://c/%63ontrol/"+testID)},
		"no uuid":            {URIs: uris(t, "spiffe://c/control/n1")},
		"uuid in capitals":   {URIs: uris(t, "spiffe://c/control/01890A5D-AC96-774B-BCCE-B302099A8057")},
		"uuid without dash":  {URIs: uris(t, "spiffe://c/control/01890a5dac96774bbcceb302099a8057")},
		"project on node":    {URIs: uris(t, good), Subject: project},
		"client, no project": {URIs: uris(t, "spiffe://c/client/"+testID)},
		"client, odd role": {URIs: uris(t, "spiffe://c/client/"+testID),
			Subject: pkix.Name{Organization: []string{"p"}, OrganizationalUnit: []string{"admin"}}},
		"client, two projects": {URIs: uris(t, "spiffe://c/client/"+testID),
			Subject: pkix.Name{Organization: []string{"p", "q"}, OrganizationalUnit: []string{"member"}}},
	} {
		cert.SerialNumber = big.NewInt(1)
		if id, err := FromCertificate(cert); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: got %+v, %v; want ErrIdentity", name, id, err)
		}
	}
}

func TestIssueRefusesBadSubjects(t *testing.T) {
	ca := newTestCA(t, "c")
	for name, s := range map[string]Subject{
		"role":            {Role: "admin", ID: testID},
		"id":              {Role: RoleAgent, ID: "host1"},
		"agent project":   {Role: RoleAgent, ID: testID, Project: "p"},
		"no project":      {Role: RoleClient, ID: testID, ProjectRole: ProjectMember},
		"no project role": {Role: RoleClient, ID: testID, Project: "p"},
		"client with dns": {Role: RoleClient, ID: testID, Project: "p", ProjectRole: ProjectMember, DNSNames: []string{"x"}},
		"negative ttl":    {Role: RoleAgent, ID: testID, TTL: -1},
	} {
		if _, _, err := ca.IssueKey(s); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: got %v, want ErrIdentity", name, err)
		}
	}
	if _, err := NewCA("Not A Domain"); !errors.Is(err, ErrIdentity) {
		t.Errorf("NewCA: got %v", err)
	}
}

func TestIssueCSRIgnoresWhatTheRequestAsks(t *testing.T) {
	ca := newTestCA(t, "c")
	csr, _, err := NewCSR()
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := ca.IssueCSR(Subject{Role: RoleAgent, ID: testID}, csr)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCertPEM(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := FromCertificate(cert); err != nil || id.Role != RoleAgent || id.ID != testID {
		t.Fatalf("got %+v, %v", id, err)
	}
	if left := time.Until(cert.NotAfter); left > DefaultTTL {
		t.Fatalf("default lifetime %s exceeds %s", left, DefaultTTL)
	}
	csr[len(csr)/2] ^= 1
	if _, err := ca.IssueCSR(Subject{Role: RoleAgent, ID: testID}, csr); err == nil {
		t.Fatal("damaged request was signed")
	}
}

func newTestCA(t *testing.T, cluster string) *CA {
	t.Helper()
	ca, err := NewCA(cluster)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newID() string { return uuid.NewString() }

// FuzzFromCertificate: whatever a certificate says, an identity that is taken from it
// spells itself exactly as we would have issued it.
func FuzzFromCertificate(f *testing.F) {
	ca, err := NewCA("c")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []Subject{{Role: RoleAgent, ID: testID}, {Role: RoleClient, ID: testID, Project: "p", ProjectRole: ProjectMember}} {
		certPEM, _, err := ca.IssueKey(s)
		if err != nil {
			f.Fatal(err)
		}
		cert, err := parseCertPEM(certPEM)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(cert.Raw)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		id, err := FromCertificate(cert)
		if err == nil && (len(cert.URIs) != 1 || cert.URIs[0].String() != id.URI() || !id.Role.Valid()) {
			t.Errorf("%v was taken for %+v", cert.URIs, id)
		}
	})
}
