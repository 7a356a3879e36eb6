package agent

import (
	"crypto/tls"
	"net/http"
	"path/filepath"

	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// revokedFile below the data directory has the revoked identities that this host has heard of.
const revokedFile = "revoked_identities"

func (a *Agent) buildRevocations() (err error) {
	a.revoked, err = identity.OpenRevocations(filepath.Join(a.cfg.DataDir, revokedFile))
	if err != nil {
		return err
	}
	a.dropControl = func(string) int { return 0 }
	a.callers = identity.NewAdmission(identity.Limits{})
	a.callers.Refuse = a.revoked.Check
	return nil
}

// revoke takes the control plane's list of revoked identities; nil is no news. Whoever is
// new on it is cut off at once, as who pulls from here, as who is pulled from, and as a
// control-plane node that is called.
func (a *Agent) revoke(said *tarnv1.Revocations) {
	if said == nil {
		return
	}
	fresh, err := a.revoked.Take(said.GetIds(), said.GetDigest())
	if err != nil {
		a.log.Error("revoked identities are refused, but only until a restart: they could not be written down", "err", err)
	}
	for _, id := range fresh {
		cut := a.callers.Drop(id) + a.dropControl(id)
		a.client.Sever(id)
		a.log.Warn("an identity was revoked and is refused from now on", "id", id, "connections", cut)
	}
}

// peerID is the host id of an agent that may call.
func (a *Agent) peerID(r *http.Request) (string, error) {
	id, err := peerID(r)
	if err != nil {
		return "", err
	}
	return id, a.revoked.Check(id)
}

// controlTLS is for calls to control-plane nodes.
func (a *Agent) controlTLS() *tls.Config {
	return unlessRevoked(a.material.ClientConfig(identity.RoleControl), a.revoked)
}

// unlessRevoked refuses servers whose identity was revoked, after all other checks.
func unlessRevoked(conf *tls.Config, revoked *identity.Revocations) *tls.Config {
	verify := conf.VerifyConnection
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		if err := verify(state); err != nil {
			return err
		}
		peer, err := identity.Peer(state)
		if err != nil {
			return err
		}
		return revoked.Check(peer.ID)
	}
	return conf
}
