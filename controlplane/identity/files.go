package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// File names within an identity directory, which has mode 0700; the files have 0600.
const (
	CAFile      = "ca.pem"   // certificate of the cluster's authority
	CAKeyFile   = "ca.key"   // its key: control-plane nodes that issue certificates
	CertFile    = "node.pem" // this node's certificate
	NodeKeyFile = "node.key" // its key
)

// Save writes ca.pem and ca.key into dir, creating it if needed. Each file
// appears whole or not at all.
func (ca *CA) Save(dir string) error {
	keyPEM, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	return writeFiles(dir, []file{{CAKeyFile, keyPEM}, {CAFile, ca.CertPEM()}})
}

// LoadCA reads the authority that Save wrote. A missing file is fs.ErrNotExist.
func LoadCA(dir string) (*CA, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	ca, err := ParseCA(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	return ca, nil
}

// ParseCA returns the authority of CertPEM and KeyPEM; they must belong together.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, err := parseCertPEM(certPEM)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	return parseCA(cert.Raw, key)
}

func parseKey(keyPEM []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key is %T, want ECDSA", parsed)
	}
	return key, nil
}

// SaveNode writes a node's three files into dir, creating it if needed. The key
// is written before the certificate and each file is replaced atomically; a
// Material that looks in between keeps what it had.
func SaveNode(dir string, caPEM, certPEM, keyPEM []byte) error {
	return writeFiles(dir, []file{{NodeKeyFile, keyPEM}, {CertFile, certPEM}, {CAFile, caPEM}})
}

type file struct {
	name string
	data []byte
}

func writeFiles(dir string, files []file) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create identity directory: %w", err)
	}
	for _, f := range files {
		if err := writeAtomic(dir, f); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// writeAtomic goes through a synced temporary file, which os.CreateTemp makes
// with mode 0600, so that a crash leaves the old file or the new one.
func writeAtomic(dir string, f file) (err error) {
	tmp, err := os.CreateTemp(dir, "."+f.name+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", f.name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", f.name, err), os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(f.data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), filepath.Join(dir, f.name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync identity directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
