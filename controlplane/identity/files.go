package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// File names within an identity directory, which has mode 0700; the files have 0600.
const (
	CAFile      = "ca.pem"   // certificate of the cluster's authority
	CAKeyFile   = "ca.key"   // its key: control-plane nodes that issue certificates
	CertFile    = "node.pem" // this node's certificate
	NodeKeyFile = "node.key" // its key
	// NextFile holds key, certificate and authority together while they are being
	// replaced. It is read when the three files do not fit together.
	NextFile = "node.next"
)

// Save writes ca.pem and ca.key into dir, creating it if needed. Each file
// appears whole or not at all.
func (ca *CA) Save(dir string) error {
	keyPEM, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	d := disk{dir: dir}
	return errors.Join(d.make(), d.write(file{CAKeyFile, keyPEM}, file{CAFile, ca.CertPEM()}), d.sync())
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

// SaveNode writes a node's three files into dir, creating it if needed. Wherever it is
// stopped, LoadMaterial finds what was there before or what is new, whole: the new files
// are first written as one, NextFile, which goes when the last of the three is on the disk.
func SaveNode(dir string, caPEM, certPEM, keyPEM []byte) error {
	return disk{dir: dir}.saveNode(caPEM, certPEM, keyPEM)
}

func (d disk) saveNode(caPEM, certPEM, keyPEM []byte) error {
	if err := d.make(); err != nil {
		return err
	}
	if err := d.write(file{NextFile, slices.Concat(keyPEM, certPEM, caPEM)}); err != nil {
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	return d.settle(caPEM, certPEM, keyPEM)
}

// settle puts what NextFile holds into the files that it is about.
func (d disk) settle(caPEM, certPEM, keyPEM []byte) error {
	if err := d.write(file{NodeKeyFile, keyPEM}, file{CertFile, certPEM}, file{CAFile, caPEM}); err != nil {
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	return d.remove(NextFile)
}

// readNext takes NextFile apart. Without that file the error is fs.ErrNotExist.
func readNext(dir string) (caPEM, certPEM, keyPEM []byte, err error) {
	rest, err := os.ReadFile(filepath.Join(dir, NextFile))
	if err != nil {
		return nil, nil, nil, err
	}
	var parts [3][]byte
	for i := range parts {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, nil, nil, fmt.Errorf("%s holds %d parts, want key, certificate and authority", NextFile, i)
		}
		parts[i] = pem.EncodeToMemory(block)
	}
	return parts[2], parts[1], parts[0], nil
}

// Settle ends what a SaveNode that was stopped began, so that others who read the three
// files find them whole. It does nothing when there is nothing to end, and leaves files
// alone that fit together: they are what was there before, or what is new.
func Settle(dir string) error {
	caPEM, certPEM, keyPEM, err := readNext(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d := disk{dir: dir}
	if _, fits := loadFiles(dir); fits == nil {
		if err := d.sync(); err != nil {
			return err
		}
		return d.remove(NextFile)
	}
	if err == nil {
		_, err = assemble(caPEM, certPEM, keyPEM)
	}
	if err != nil {
		return fmt.Errorf("identity files in %s do not fit together, nor does %s: %w", dir, NextFile, err)
	}
	return d.settle(caPEM, certPEM, keyPEM)
}
