package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tarn/controlplane/identity"
	"tarn/zfs/durable"
)

// hostIDFile below the data directory ties the data to one identity.
const hostIDFile = "host_id"

// loadIdentity reads the certificate and checks that it is an agent's, and the
// one that this data directory belongs to. A new directory takes the id on.
func loadIdentity(cfg Config) (*identity.Material, error) {
	material, err := identity.LoadMaterial(cfg.PKIDir)
	if err != nil {
		return nil, err
	}
	id := material.Identity()
	if id.Role != identity.RoleAgent {
		return nil, fmt.Errorf("certificate in %s is for role %s, an agent's is needed", cfg.PKIDir, id.Role)
	}
	return material, checkHostID(filepath.Join(cfg.DataDir, hostIDFile), id.ID)
}

// checkHostID refuses another host's certificate: its replicas are not here.
func checkHostID(path, id string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return writeHostID(path, id)
	}
	if err != nil {
		return fmt.Errorf("read host id: %w", err)
	}
	found := strings.TrimSpace(string(text))
	if found == "" {
		return writeHostID(path, id) // What a crash of an older version left.
	}
	if found != id {
		return fmt.Errorf("data directory belongs to host %s, the certificate to %s: restore the certificate, or start with an empty data directory", found, id)
	}
	return nil
}

// writeHostID leaves the whole file or none: half an id would keep this host out for good.
func writeHostID(path, id string) error {
	if err := durable.Replace(path, []byte(id+"\n")); err != nil {
		return fmt.Errorf("write host id: %w", err)
	}
	return nil
}

// peerID is the host id of the agent that calls.
func peerID(r *http.Request) (string, error) {
	if r.TLS == nil {
		return "", fmt.Errorf("%w: connection without TLS", identity.ErrIdentity)
	}
	peer, err := identity.Peer(*r.TLS)
	if err != nil {
		return "", err
	}
	if time.Now().After(r.TLS.PeerCertificates[0].NotAfter) {
		return "", fmt.Errorf("%w: the certificate of %s has expired", identity.ErrIdentity, peer.URI())
	}
	if peer.Role != identity.RoleAgent {
		return "", fmt.Errorf("%w: %s is no agent", identity.ErrIdentity, peer.URI())
	}
	return peer.ID, nil
}

// untilExpiry serves nobody longer than its certificate lasts: what is under way ends
// with it, and a new connection shows the certificate that the peer has by then.
func untilExpiry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			next.ServeHTTP(w, r) // PeerID refuses it.
			return
		}
		leaf := r.TLS.PeerCertificates[0]
		if left := time.Until(leaf.NotAfter); left < leaf.NotAfter.Sub(leaf.NotBefore)/6 {
			w.Header().Set("Connection", "close")
		}
		ctx, cancel := context.WithDeadline(r.Context(), leaf.NotAfter)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// dialer gives the TLS configuration for calling one host: an agent of this
// cluster, and no other host than that.
func dialer(material *identity.Material) func(hostID string) *tls.Config {
	return func(hostID string) *tls.Config {
		cfg := material.ClientConfig(identity.RoleAgent)
		cluster := cfg.VerifyConnection
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			if err := cluster(state); err != nil {
				return err
			}
			peer, err := identity.Peer(state)
			if err == nil && peer.ID != hostID {
				err = fmt.Errorf("%w: called host %s, %s answered", identity.ErrIdentity, hostID, peer.ID)
			}
			return err
		}
		return cfg
	}
}
