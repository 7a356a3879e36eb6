package gossip

import (
	"errors"
	"fmt"
	"net/netip"
)

// Why a member is kept out of the ring.
var (
	// ErrStranger: no host and no control node of the cluster has that name.
	ErrStranger = errors.New("nobody of this cluster has that name")
	// ErrAddress: the name's owner is registered elsewhere.
	ErrAddress = errors.New("not where the owner of that name is registered")
)

// Registered is what a member has told the control plane of itself, with its
// certificate. The ring's key proves less: all members have it.
type Registered struct {
	Role Role
	// Addr is IP:port in the ring. With port 0 any port of that IP is good, empty means
	// that no address is known: then the name alone is confirmed.
	Addr string
}

// Confirm returns nil if m is where its name's owner is registered; else an error that
// is ErrStranger or ErrAddress.
func (r Registered) Confirm(m Member) error {
	if r.Role != m.Meta.Role {
		return fmt.Errorf("%w: %s calls itself %s, and is registered as %s", ErrStranger, m.Name, m.Meta.Role, r.Role)
	}
	if r.Addr == "" || r.Addr == m.Addr {
		return nil
	}
	want, err := netip.ParseAddrPort(r.Addr)
	have, errHave := netip.ParseAddrPort(m.Addr)
	if err == nil && errHave == nil && want.Addr().Unmap() == have.Addr().Unmap() && (want.Port() == 0 || want.Port() == have.Port()) {
		return nil
	}
	return fmt.Errorf("%w: %s is at %s, registered is %s", ErrAddress, m.Name, m.Addr, r.Addr)
}

// Reachable says that Addr can be joined.
func (r Registered) Reachable() bool {
	at, err := netip.ParseAddrPort(r.Addr)
	return err == nil && at.Port() != 0
}

// Reason names why a member was refused, for metrics.
func Reason(err error) string {
	switch {
	case errors.Is(err, ErrStranger):
		return "stranger"
	case errors.Is(err, ErrAddress):
		return "address"
	}
	return "malformed"
}

// String returns the role's name, as in certificates.
func (r Role) String() string {
	switch r {
	case RoleAgent:
		return "agent"
	case RoleControl:
		return "control"
	}
	return "unknown"
}
