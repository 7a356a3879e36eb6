package dev

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/uuid"

	"tarn/controlplane"
	"tarn/controlplane/identity"
)

// certLifetime is long: nobody rotates the certificates of a playground.
const certLifetime = 5 * 365 * 24 * time.Hour

func (c *Cluster) pkiDir(name string) string       { return filepath.Join(c.dir, "pki", name) }
func (c *Cluster) configFile(n Node) string        { return filepath.Join(c.dir, "config", n.Name+".toml") }
func (c *Cluster) dataDir(n Node) string           { return filepath.Join(c.dir, "nodes", n.Name) }
func (c *Cluster) poolDir(n Node, p string) string { return filepath.Join(c.dataDir(n), "pools", p) }

// provision writes everything that the nodes and their user need.
func (c *Cluster) provision() error {
	ca, err := identity.NewCA(c.layout.Cluster)
	if err != nil {
		return err
	}
	if err := ca.Save(c.pkiDir("ca")); err != nil {
		return err
	}
	for _, n := range c.layout.Nodes {
		if err := c.provisionNode(ca, n); err != nil {
			return fmt.Errorf("prepare %s: %w", n.Name, err)
		}
	}
	if err := c.writeGossipKeys(); err != nil {
		return err
	}
	return c.provisionOperator(ca)
}

// writeGossipKeys gives each node a file of its own, which a rotation changes.
func (c *Cluster) writeGossipKeys() error {
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return fmt.Errorf("draw gossip key: %w", err)
	}
	text := base64.StdEncoding.EncodeToString(key[:]) + "\n"
	for _, n := range c.layout.Nodes {
		if err := os.WriteFile(filepath.Join(c.pkiDir(n.Name), "gossip.key"), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write gossip key: %w", err)
		}
	}
	return nil
}

func (c *Cluster) provisionNode(ca *identity.CA, n Node) error {
	if err := os.MkdirAll(c.dataDir(n), 0o700); err != nil {
		return err
	}
	role, id, err := c.mintID(n)
	if err != nil {
		return err
	}
	subject := identity.Subject{Role: role, ID: id, IPs: []net.IP{net.ParseIP(n.IP)}, TTL: certLifetime}
	if err := c.issue(ca, n.Name, subject); err != nil {
		return err
	}
	if n.Kind == Control {
		// Control nodes sign the certificates of those that join.
		if err := ca.Save(c.pkiDir(n.Name)); err != nil {
			return err
		}
	}
	return writeTOML(c.configFile(n), c.nodeConfig(n))
}

// mintID has the node's identity made where the node itself will look for it.
func (c *Cluster) mintID(n Node) (identity.Role, string, error) {
	if n.Kind == Control {
		id, err := controlplane.NodeID(c.dataDir(n))
		return identity.RoleControl, id, err
	}
	return identity.RoleAgent, uuid.NewString(), nil
}

func (c *Cluster) issue(ca *identity.CA, name string, subject identity.Subject) error {
	certPEM, keyPEM, err := ca.IssueKey(subject)
	if err != nil {
		return err
	}
	return identity.SaveNode(c.pkiDir(name), ca.CertPEM(), certPEM, keyPEM)
}

func (c *Cluster) provisionOperator(ca *identity.CA) error {
	subject := identity.Subject{Role: identity.RoleOperator, ID: uuid.NewString(), TTL: certLifetime}
	if err := c.issue(ca, "operator", subject); err != nil {
		return err
	}
	return writeTOML(c.ClientConfig(), map[string]any{
		"addresses": c.controlAddresses(),
		"pki":       filepath.Join("pki", "operator"),
		"project":   "default",
	})
}

func (c *Cluster) controlAddresses() []string {
	var out []string
	for _, n := range c.layout.of(Control) {
		out = append(out, n.Address())
	}
	return out
}

func (c *Cluster) gossipAddresses() []string {
	var out []string
	for _, n := range c.layout.of(Control) {
		out = append(out, n.Gossip())
	}
	return out
}

func writeTOML(path string, value any) error {
	data, err := toml.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
