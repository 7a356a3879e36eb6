package api

import (
	"crypto/x509"
	"net/netip"
	"time"

	"tarn/controlplane/identity"
	"tarn/controlplane/policy"
	tarnv1 "tarn/proto/tarn/v1"
)

const (
	longestPoll  = 60 * time.Second
	shortestLife = time.Minute
	longestLife  = 24 * time.Hour
	// longestUserLife of a user's token.
	longestUserLife = 365 * 24 * time.Hour
	maxCSR          = 16 << 10
	// maxLifeToken leaves a later release room for longer ones.
	maxLifeToken = 256
)

// addAgentRules adds what storage hosts send.
func addAgentRules(r rules) {
	on(r, (*checker).registration)
	on(r, func(c *checker, m *tarnv1.AssignmentsRequest) {
		c.id("host_id", m.GetHostId())
		c.span("max_wait", m.GetMaxWait(), 0, longestPoll)
	})
	on(r, func(c *checker, m *tarnv1.ReportRequest) {
		c.id("host_id", m.GetHostId())
		c.required("session_id", m.GetSessionId())
		for _, replica := range m.GetReplicas() {
			c.id("replicas.replica_id", replica.GetReplicaId())
		}
	})
	on(r, func(c *checker, m *tarnv1.RenewLeaseRequest) {
		c.id("host_id", m.GetHostId())
		c.required("session_id", m.GetSessionId())
		if n := len(m.GetEcho()); n > maxLifeToken {
			c.fail("echo", "has %d bytes, up to %d are allowed", n, maxLifeToken)
		}
		for _, s := range m.GetShares() {
			c.id("shares.share_id", s.GetShareId())
			c.id("shares.replica_id", s.GetReplicaId())
		}
	})
}

func (c *checker) registration(m *tarnv1.RegisterRequest) {
	h := m.GetHost()
	c.id("host.id", h.GetId())
	c.hostName("host.name", h.GetName())
	c.hostName("host.backend", h.GetBackend())
	c.name("host.availability_zone", h.GetAvailabilityZone())
	c.address("host.address", h.GetAddress())
	if h.GetGossipAddress() != "" {
		c.addrPort("host.gossip_address", h.GetGossipAddress())
	}
	c.required("host.session_id", h.GetSessionId())
	if len(h.GetPools()) == 0 {
		c.fail("host.pools", "is required")
	}
	seen := map[string]bool{}
	for _, p := range h.GetPools() {
		c.pool(p)
		if seen[p.GetName()] {
			c.fail("host.pools.name", "%q appears twice", p.GetName())
		}
		seen[p.GetName()] = true
	}
}

// addrPort checks IP:port.
func (c *checker) addrPort(field, v string) {
	if at, err := netip.ParseAddrPort(v); err != nil || at.Addr().IsUnspecified() || at.Port() == 0 {
		c.fail(field, "is %q, IP:port is needed", v)
	}
}

func (c *checker) pool(p *tarnv1.Pool) {
	c.hostName("host.pools.name", p.GetName())
	if p.GetReservedPercentage() < 0 || p.GetReservedPercentage() > 100 {
		c.fail("host.pools.reserved_percentage", "is %d, 0 to 100 are allowed", p.GetReservedPercentage())
	}
	if !(p.GetTotalCapacityGib() >= 0) || !(p.GetFreeCapacityGib() >= 0) {
		c.fail("host.pools.total_capacity_gib", "and free_capacity_gib are not negative")
	}
	if r := p.GetMaxOverSubscriptionRatio(); r != 0 && !(r >= 1) {
		c.fail("host.pools.max_over_subscription_ratio", "is %g, 1 or more is allowed", r)
	}
}

// hostName checks a part of host@backend#pool, which must stay separable.
func (c *checker) hostName(field, v string) {
	if !c.required(field, v) {
		return
	}
	for _, r := range v {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && r != '.' && r != '-' && r != '_' {
			c.fail(field, "contains %q: letters, digits, dot, hyphen and underscore are allowed", r)
			return
		}
	}
}

// addOperatorRules adds hosts, Raft membership and joining.
func addOperatorRules(r rules) {
	on(r, func(*checker, *tarnv1.ListHostsRequest) {})
	on(r, func(c *checker, m *tarnv1.DisableHostRequest) {
		c.name("id", m.GetId())
		c.required("reason", m.GetReason())
	})
	on(r, func(*checker, *tarnv1.ListPoolsRequest) {})
	on(r, func(*checker, *tarnv1.ListAvailabilityZonesRequest) {})
	on(r, func(*checker, *tarnv1.GetStatusRequest) {})
	on(r, func(*checker, *tarnv1.ListRaftServersRequest) {})
	on(r, func(c *checker, m *tarnv1.AddRaftServerRequest) {
		c.id("id", m.GetId())
		c.address("address", m.GetAddress())
	})
	on(r, func(c *checker, m *tarnv1.RemoveRaftServerRequest) { c.id("id", m.GetId()) })
	on(r, (*checker).joinToken)
	on(r, (*checker).newUser)
	on(r, func(*checker, *tarnv1.ListUsersRequest) {})
	on(r, func(c *checker, m *tarnv1.RevokeUserRequest) {
		c.required("user", m.GetUser())
		c.required("reason", m.GetReason())
	})
	on(r, func(c *checker, m *tarnv1.ReadBackupRequest) {
		c.optionalID("id", m.GetId())
		if m.GetId() == "" && m.GetPiece() != 0 {
			c.fail("piece", "is %d, a new copy begins with 0", m.GetPiece())
		}
	})
	on(r, func(c *checker, m *tarnv1.ListAuditRecordsRequest) {
		if m.GetLimit() < 0 || m.GetLimit() > maxPage {
			c.fail("limit", "is %d, 0 to %d are allowed", m.GetLimit(), maxPage)
		}
	})
	on(r, func(c *checker, m *tarnv1.HelloRequest) {
		c.id("id", m.GetId())
		c.address("address", m.GetAddress())
	})
	on(r, func(*checker, *tarnv1.GetGossipKeysRequest) {})
	on(r, func(*checker, *tarnv1.RotateGossipKeyRequest) {})
	on(r, func(c *checker, m *tarnv1.ExchangeGossipRequest) { c.id("id", m.GetId()) })
	on(r, func(c *checker, m *tarnv1.JoinRequest) {
		c.required("token", m.GetToken())
		c.id("node_id", m.GetNodeId())
		c.csr(m.GetCsr())
	})
	on(r, func(c *checker, m *tarnv1.RenewRequest) { c.csr(m.GetCsr()) })
}

func (c *checker) csr(der []byte) {
	if n := len(der); n == 0 || n > maxCSR {
		c.fail("csr", "has %d bytes, 1 to %d are allowed", n, maxCSR)
		return
	}
	// Before a token is spent on it: a broken request can be repeated.
	request, err := x509.ParseCertificateRequest(der)
	if err != nil || request.CheckSignature() != nil {
		c.fail("csr", "is not a certificate request in DER that signs itself")
	}
}

func (c *checker) joinToken(m *tarnv1.CreateJoinTokenRequest) {
	c.span("ttl", m.GetTtl(), shortestLife, longestLife)
	switch identity.Role(m.GetRole()) {
	case identity.RoleClient:
		if !validProject(m.GetProjectId()) {
			c.fail("project_id", "is 1 to 255 bytes of printable text")
		}
		if p := m.GetProjectRole(); p != identity.ProjectMember && p != identity.ProjectReader {
			c.fail("project_role", "is %q, member and reader are allowed", p)
		}
	case identity.RoleAgent, identity.RoleControl:
		if m.GetProjectId()+m.GetProjectRole() != "" {
			c.fail("project_id", "and project_role are for clients")
		}
	default:
		c.fail("role", "is %q, agent, control and client are allowed", m.GetRole())
	}
}

func (c *checker) newUser(m *tarnv1.CreateUserRequest) {
	c.optionalID("id", m.GetId())
	c.hostName("name", m.GetName())
	if isUUID(m.GetName()) {
		c.fail("name", "must not look like an id")
	}
	c.span("ttl", m.GetTtl(), shortestLife, longestUserLife)
	switch m.GetRole() {
	case policy.RoleOperator:
		if m.GetProjectId() != "" {
			c.fail("project_id", "is for readers and members")
		}
	case policy.RoleReader, policy.RoleMember:
		if !validProject(m.GetProjectId()) {
			c.fail("project_id", "is 1 to 255 bytes of printable text")
		}
	default:
		c.fail("role", "is %q, reader, member and operator are allowed", m.GetRole())
	}
}
