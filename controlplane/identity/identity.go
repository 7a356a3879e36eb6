package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/uuid"
)

// Role is what the holder of a certificate is in the cluster. It is the first
// path element of the SPIFFE id.
type Role string

// The roles. A certificate has exactly one.
const (
	RoleControl  Role = "control"  // a control-plane node: may speak Raft
	RoleAgent    Role = "agent"    // the agent of one storage host
	RoleClient   Role = "client"   // a user of one project
	RoleOperator Role = "operator" // administrates the cluster
)

// Valid reports whether r is one of the four roles.
func (r Role) Valid() bool {
	switch r {
	case RoleControl, RoleAgent, RoleClient, RoleOperator:
		return true
	}
	return false
}

// Roles that a client may have within its project, carried in the
// certificate's organisational unit.
const (
	ProjectMember = "member" // reads and changes the project's resources
	ProjectReader = "reader" // reads only
)

// ErrIdentity is wrapped by every refusal of a certificate's identity.
var ErrIdentity = errors.New("unacceptable identity")

// maxProject bounds a project id, in bytes. Manila's are UUIDs or 32 hex digits.
const maxProject = 255

var clusterPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// ValidCluster reports whether name can be a trust domain: 1 to 63 lower-case
// letters, digits, dots and hyphens, beginning and ending in a letter or digit.
func ValidCluster(name string) bool {
	return clusterPattern.MatchString(name) && !strings.Contains(name, "..")
}

// Identity is who a certificate says its holder is.
type Identity struct {
	Cluster     string // trust domain
	Role        Role
	ID          string // canonical UUID of the node, host or user
	Project     string // clients only
	ProjectRole string // clients only: ProjectMember or ProjectReader
	Serial      string // certificate serial number, lower-case hex
}

// URI returns the SPIFFE id, which audit records use as the actor.
func (i Identity) URI() string {
	return spiffeURI(i.Cluster, i.Role, i.ID).String()
}

func spiffeURI(cluster string, role Role, id string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: cluster, Path: "/" + string(role) + "/" + id}
}

// FromCertificate reads the identity of a verified leaf certificate. It refuses
// (with ErrIdentity) authorities, certificates without exactly one URI, and
// anything in that URI or in a client's subject that is not exactly as issued.
// It does not verify the chain.
func FromCertificate(cert *x509.Certificate) (Identity, error) {
	if cert.IsCA {
		return Identity{}, fmt.Errorf("%w: certificate is an authority", ErrIdentity)
	}
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("%w: certificate has %d URIs, want exactly one", ErrIdentity, len(cert.URIs))
	}
	id, err := parseURI(cert.URIs[0])
	if err != nil {
		return Identity{}, err
	}
	id.Serial = cert.SerialNumber.Text(16)
	return withProject(id, cert)
}

func parseURI(u *url.URL) (Identity, error) {
	parts := strings.Split(u.Path, "/")
	if u.Scheme != "spiffe" || len(parts) != 3 {
		return Identity{}, fmt.Errorf("%w: %q is not spiffe://cluster/role/uuid", ErrIdentity, u)
	}
	id := Identity{Cluster: u.Host, Role: Role(parts[1]), ID: parts[2]}
	if err := id.check(); err != nil {
		return Identity{}, err
	}
	// Comparing with the one spelling we issue rules out user, port, query,
	// fragment and escapes without naming each.
	if id.URI() != u.String() {
		return Identity{}, fmt.Errorf("%w: %q is not in canonical form", ErrIdentity, u)
	}
	return id, nil
}

// check tells whether cluster, role and id are well formed.
func (i Identity) check() error {
	if !ValidCluster(i.Cluster) {
		return fmt.Errorf("%w: trust domain %q", ErrIdentity, i.Cluster)
	}
	if !i.Role.Valid() {
		return fmt.Errorf("%w: unknown role %q", ErrIdentity, i.Role)
	}
	parsed, err := uuid.Parse(i.ID)
	if err != nil || parsed.String() != i.ID {
		return fmt.Errorf("%w: %q is not a canonical UUID", ErrIdentity, i.ID)
	}
	return nil
}

// withProject adds a client's project and refuses a project on any other role,
// so that a forgotten role check can never turn one into the other.
func withProject(id Identity, cert *x509.Certificate) (Identity, error) {
	orgs, units := cert.Subject.Organization, cert.Subject.OrganizationalUnit
	if id.Role != RoleClient {
		if len(orgs)+len(units) != 0 {
			return Identity{}, fmt.Errorf("%w: role %s carries a project", ErrIdentity, id.Role)
		}
		return id, nil
	}
	if len(orgs) != 1 || len(units) != 1 {
		return Identity{}, fmt.Errorf("%w: client needs one project and one project role", ErrIdentity)
	}
	id.Project, id.ProjectRole = orgs[0], units[0]
	return id, checkProject(id.Project, id.ProjectRole)
}

func checkProject(project, role string) error {
	if project == "" || len(project) > maxProject {
		return fmt.Errorf("%w: project of %d bytes, want 1 to %d", ErrIdentity, len(project), maxProject)
	}
	if role != ProjectMember && role != ProjectReader {
		return fmt.Errorf("%w: project role %q, want member or reader", ErrIdentity, role)
	}
	return nil
}

// Peer returns the identity of the other end of an established connection.
// A connection without a client certificate gives ErrIdentity.
func Peer(cs tls.ConnectionState) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, fmt.Errorf("%w: peer sent no certificate", ErrIdentity)
	}
	return FromCertificate(cs.PeerCertificates[0])
}
