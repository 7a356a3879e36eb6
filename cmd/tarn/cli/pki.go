package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"tarn/controlplane"
	"tarn/controlplane/client"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

type pkiCmd struct {
	Init  pkiInit  `cmd:"" help:"Create a cluster's authority."`
	Issue pkiIssue `cmd:"" help:"Issue a certificate."`
}

type pkiInit struct {
	Cluster string `arg:"" help:"Name of the cluster: lower-case letters, digits, dots and hyphens."`
	Dir     string `help:"Where ca.pem and ca.key go." default:"." type:"path"`
}

func (c *pkiInit) Run(a *app) error {
	if old, err := identity.LoadCA(c.Dir); err == nil {
		return fail(exitRefused, "%s already holds the authority of cluster %s", c.Dir, old.Cluster()).
			next("choose another --dir; an authority is never overwritten")
	}
	// One that cannot be read just now, or only in part, is one all the same.
	for _, name := range []string{identity.CAFile, identity.CAKeyFile} {
		if _, err := os.Lstat(filepath.Join(c.Dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fail(exitRefused, "%s is there already, or cannot be looked for", filepath.Join(c.Dir, name)).
				next("choose another --dir; an authority is never overwritten")
		}
	}
	ca, err := identity.NewCA(c.Cluster)
	if err != nil {
		return usage("%w", err)
	}
	if err := ca.Save(c.Dir); err != nil {
		return err
	}
	a.printResult(ca.Hash(), "authority of cluster %s in %s\nsha256 %s", ca.Cluster(), c.Dir, ca.Hash())
	return nil
}

type pkiIssue struct {
	Role string `arg:"" enum:"control,agent,client,operator" help:"control, agent, client or operator."`
	CA   string `name:"ca" help:"Directory with ca.pem and ca.key." default:"." type:"path"`
	Dir  string `help:"Where ca.pem, node.pem and node.key go." required:"" type:"path"`
	idFlags
	ForProject  string        `help:"Clients: their project."`
	ProjectRole string        `help:"Clients: member or reader." enum:"member,reader" default:"member"`
	IP          []net.IP      `name:"ip" help:"Addresses that the node serves on; repeatable."`
	DNS         []string      `name:"dns" help:"Names that the node serves on; repeatable."`
	TTL         time.Duration `name:"ttl" help:"Lifetime." default:"168h"`
}

// idFlags say whose the certificate is.
type idFlags struct {
	ID      string `name:"id" help:"UUID of the node or host; minted if left out. People who join get one of the cluster's."`
	DataDir string `help:"Control nodes: take the id from this data directory, or mint it there." type:"path" placeholder:"DIR"`
}

func (f idFlags) id() (string, error) {
	switch {
	case f.ID != "" && f.DataDir != "":
		return "", usage("--id and --data-dir: give one of them")
	case f.ID != "":
		return f.ID, nil
	case f.DataDir != "":
		return controlplane.NodeID(f.DataDir)
	}
	return uuid.NewString(), nil
}

func (c *pkiIssue) subject(id string) identity.Subject {
	s := identity.Subject{Role: identity.Role(c.Role), ID: id, DNSNames: c.DNS, IPs: c.IP, TTL: c.TTL}
	if s.Role == identity.RoleClient {
		s.Project, s.ProjectRole = c.ForProject, c.ProjectRole
	}
	return s
}

func (c *pkiIssue) Run(a *app) error {
	ca, err := identity.LoadCA(c.CA)
	if err != nil {
		return usage("%w", err).next("create one with `tarn pki init NAME --dir %s`", c.CA)
	}
	id, err := c.id()
	if err != nil {
		return err
	}
	subject := c.subject(id)
	certPEM, keyPEM, err := ca.IssueKey(subject)
	if err != nil {
		return usage("%w", err)
	}
	if err := identity.SaveNode(c.Dir, ca.CertPEM(), certPEM, keyPEM); err != nil {
		return err
	}
	a.printResult(subject.ID, "%s %s of cluster %s in %s", c.Role, subject.ID, ca.Cluster(), c.Dir)
	return nil
}

type joinCmd struct {
	Token   string   `arg:"" help:"From tarn operator token create."`
	Address []string `help:"host:port of a control-plane node; repeatable." required:"" placeholder:"HOST:PORT"`
	Dir     string   `help:"Where the certificate files go." required:"" type:"path"`
	idFlags
}

func (c *joinCmd) Run(ctx context.Context, a *app) error {
	token, err := identity.ParseToken(c.Token)
	if err != nil {
		return usage("%w", err)
	}
	if c.ID, err = c.id(); err != nil {
		return err
	}
	api, err := client.New(client.Config{Addresses: c.Address, TLS: token.ClientConfig(), Logger: a.logger()})
	if err != nil {
		return usage("%w", err)
	}
	defer api.Close()
	csr, key, err := identity.NewCSR()
	if err != nil {
		return err
	}
	answer, err := api.Join.Join(ctx, &tarnv1.JoinRequest{Token: token.Reveal(), Csr: csr, NodeId: c.ID})
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if err := token.CheckCA(answer.GetCa()); err != nil {
		return err
	}
	return c.save(a, answer, key)
}

func (c *joinCmd) save(a *app, answer *tarnv1.JoinResponse, keyPEM []byte) error {
	if err := identity.SaveNode(c.Dir, answer.GetCa(), answer.GetCertificate(), keyPEM); err != nil {
		return err
	}
	if err := saveExtras(c.Dir, answer); err != nil {
		return err
	}
	joined, err := identity.LoadMaterial(c.Dir)
	if err != nil {
		return err
	}
	who := joined.Identity()
	a.printResult(who.ID, "%s %s of cluster %s in %s", who.Role, who.ID, answer.GetClusterId(), c.Dir)
	for _, address := range answer.GetControlAddresses() {
		fmt.Fprintln(a.stderr, "control plane:", address)
	}
	return nil
}

// GossipKeyFile is where the key of the gossip ring lies beside a node's
// certificate: lines of 32 bytes in standard base64.
const GossipKeyFile = "gossip.key"

// saveExtras keeps what only some roles are given: the ring's key, and for
// control nodes the authority's key.
func saveExtras(dir string, answer *tarnv1.JoinResponse) error {
	if key := answer.GetGossipKey(); len(key) > 0 {
		text := answer.GetGossipKeyFile() // with what a rotation under way adds
		if len(text) == 0 {
			text = []byte(base64.StdEncoding.EncodeToString(key) + "\n")
		}
		if err := os.WriteFile(filepath.Join(dir, GossipKeyFile), text, 0o600); err != nil {
			return fmt.Errorf("write gossip key: %w", err)
		}
	}
	if len(answer.GetCaKey()) == 0 {
		return nil
	}
	ca, err := identity.ParseCA(answer.GetCa(), answer.GetCaKey())
	if err != nil {
		return err
	}
	return ca.Save(dir)
}
