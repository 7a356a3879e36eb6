package controlplane

import (
	"context"
	"fmt"
	"net"
	"time"

	"tarn/controlplane/identity"
)

const (
	// renewCheck is how often the node looks at its certificate's end.
	renewCheck = time.Hour
	// renewAhead is how long before its end a certificate is renewed: days in which
	// an operator can mend what keeps it from being so.
	renewAhead = 5 * 24 * time.Hour
)

// renew keeps the node's own certificate valid, if it has the authority's key. A
// failure is no reason to stop: it is repeated, and said each time.
func (n *Node) renew(ctx context.Context) error {
	ticker := time.NewTicker(renewCheck)
	defer ticker.Stop()
	for {
		if err := n.renewOnce(time.Now()); err != nil {
			n.log.Error("certificate could not be renewed", "ends", n.material.NotAfter(), "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// renewOnce issues a new certificate if the present one ends soon. Material takes
// the new files up by itself.
func (n *Node) renewOnce(now time.Time) error {
	if n.material.NotAfter().Sub(now) > renewAhead {
		return nil
	}
	if n.authority == nil {
		return fmt.Errorf("no ca.key in %s: renew it by hand", n.cfg.PKIDir)
	}
	subject := identity.Subject{Role: identity.RoleControl, ID: n.id}
	host, _, err := net.SplitHostPort(n.cfg.Advertise)
	if err != nil {
		return fmt.Errorf("advertised address: %w", err)
	}
	if ip := net.ParseIP(host); ip != nil {
		subject.IPs = []net.IP{ip}
	} else {
		subject.DNSNames = []string{host}
	}
	cert, key, err := n.authority.IssueKey(subject)
	if err != nil {
		return err
	}
	return identity.SaveNode(n.cfg.PKIDir, n.authority.CertPEM(), cert, key)
}
