package controlplane

import (
	"context"
	"fmt"
	"net"

	"tarn/controlplane/client"
	"tarn/controlplane/identity"
)

func (n *Node) newRenewer() (*identity.Renewer, error) {
	sign := n.signOwn
	if n.authority == nil {
		sign = n.askToSign
	}
	return identity.NewRenewer(identity.RenewerConfig{Dir: n.cfg.PKIDir, Material: n.material, Sign: sign, Logger: n.log})
}

// signOwn issues the node's own certificate with the authority's key.
func (n *Node) signOwn(_ context.Context, csr []byte) ([]byte, error) {
	subject := identity.Subject{Role: identity.RoleControl, ID: n.id}
	host, _, err := net.SplitHostPort(n.cfg.Advertise)
	if err != nil {
		return nil, fmt.Errorf("advertised address: %w", err)
	}
	if ip := net.ParseIP(host); ip != nil {
		subject.IPs = []net.IP{ip}
	} else {
		subject.DNSNames = []string{host}
	}
	return n.authority.IssueCSR(subject, csr)
}

// askToSign asks the other control nodes: this one has no ca.key.
func (n *Node) askToSign(ctx context.Context, csr []byte) ([]byte, error) {
	return client.Renew(ctx, client.Config{Addresses: n.addresses(), TLS: n.material.ClientConfig(identity.RoleControl), Logger: n.log}, csr)
}
