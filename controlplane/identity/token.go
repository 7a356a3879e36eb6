package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	tokenPrefix = "tarn1"  // joins once
	userPrefix  = "tarnu1" // names a user until it ends or is revoked
	secretBytes = 32
)

// ErrToken is wrapped by every refusal of a join token. It does not tell a
// wrong secret from an expired or a used one.
var ErrToken = errors.New("join token refused")

// Token lets a node without a certificate join once, or names a user. Its printed form
// is <prefix>.<cluster>.<authority hash>.<secret>, the prefix tarn1 or tarnu1: neither
// kind can be taken for the other.
type Token struct {
	prefix  string
	Cluster string
	CAHash  string // 64 hex digits, see CAHash
	secret  [secretBytes]byte
}

// TokenRecord is what the cluster keeps of a token: never the secret.
type TokenRecord struct {
	Hash    string // SHA-256 of the printed token, 64 hex digits
	Role    Role   // the only role it can be exchanged for
	Expires time.Time
}

// NewToken draws a 256-bit secret for a joining node of the given role and
// returns the token to print and the record to store. It is valid for ttl from
// now. The store makes it single-use by deleting the record.
func NewToken(cluster, caHash string, role Role, now time.Time, ttl time.Duration) (Token, TokenRecord, error) {
	if !ValidCluster(cluster) || !validHash(caHash) || !role.Valid() || ttl <= 0 {
		return Token{}, TokenRecord{}, fmt.Errorf("%w: cluster %q, role %q, lifetime %s", ErrToken, cluster, role, ttl)
	}
	t, err := draw(tokenPrefix, cluster, caHash)
	if err != nil {
		return Token{}, TokenRecord{}, err
	}
	return t, TokenRecord{Hash: t.Hash(), Role: role, Expires: now.Add(ttl)}, nil
}

// NewUserToken draws a 256-bit secret for a user. The cluster keeps its hash.
func NewUserToken(cluster, caHash string) (Token, error) {
	if !ValidCluster(cluster) || !validHash(caHash) {
		return Token{}, fmt.Errorf("%w: cluster %q", ErrToken, cluster)
	}
	return draw(userPrefix, cluster, caHash)
}

func draw(prefix, cluster, caHash string) (Token, error) {
	t := Token{prefix: prefix, Cluster: cluster, CAHash: caHash}
	if _, err := rand.Read(t.secret[:]); err != nil {
		return Token{}, fmt.Errorf("draw token secret: %w", err)
	}
	return t, nil
}

// Reveal returns the printed form, secret included.
func (t Token) Reveal() string {
	secret := base64.RawURLEncoding.EncodeToString(t.secret[:])
	return strings.Join([]string{t.prefix, t.Cluster, t.CAHash, secret}, ".")
}

// String hides the secret, so that a token in a log line or a panic is harmless.
func (t Token) String() string {
	return strings.Join([]string{t.prefix, t.Cluster, t.CAHash, "[redacted]"}, ".")
}

// GoString hides the secret from %#v.
func (t Token) GoString() string { return t.String() }

// Hash returns the key under which the cluster stores the token.
func (t Token) Hash() string {
	sum := sha256.Sum256([]byte(t.Reveal()))
	return hex.EncodeToString(sum[:])
}

// ParseToken reads a printed join token.
func ParseToken(text string) (Token, error) { return parseToken(tokenPrefix, text) }

// ParseUserToken reads a printed user token.
func ParseUserToken(text string) (Token, error) { return parseToken(userPrefix, text) }

// parseToken takes the fields from both ends: a cluster name may contain dots.
func parseToken(prefix, text string) (Token, error) {
	rest, ok := strings.CutPrefix(text, prefix+".")
	if !ok {
		return Token{}, fmt.Errorf("%w: want %s.<cluster>.<hash>.<secret>", ErrToken, prefix)
	}
	rest, secret, ok1 := cutLast(rest)
	cluster, caHash, ok2 := cutLast(rest)
	if !ok1 || !ok2 || !ValidCluster(cluster) || !validHash(caHash) {
		return Token{}, fmt.Errorf("%w: malformed cluster or authority hash", ErrToken)
	}
	t := Token{prefix: prefix, Cluster: cluster, CAHash: caHash}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(secret)
	if err != nil || copy(t.secret[:], raw) != secretBytes || len(raw) != secretBytes {
		return Token{}, fmt.Errorf("%w: malformed secret", ErrToken)
	}
	return t, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func validHash(h string) bool {
	raw, err := hex.DecodeString(h)
	return err == nil && len(raw) == sha256.Size && strings.ToLower(h) == h
}

// Verify tells whether t is the token of record r, for role, at time now.
// The comparison takes constant time.
func (r TokenRecord) Verify(t Token, role Role, now time.Time) error {
	same := subtle.ConstantTimeCompare([]byte(r.Hash), []byte(t.Hash())) == 1
	if !same || r.Role != role || !now.Before(r.Expires) {
		return ErrToken
	}
	return nil
}

// ClientConfig returns the TLS configuration with which somebody who has only this
// token calls the control plane: it accepts a control-plane node whose chain
// ends in the authority that the token pins, and nothing else.
func (t Token) ClientConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Off only in name: VerifyConnection pins the authority.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			roots, err := t.pinned(cs.PeerCertificates)
			if err != nil {
				return err
			}
			if err := verifyServer(cs, roots); err != nil {
				return err
			}
			return checkPeer(cs, t.Cluster, []Role{RoleControl})
		},
	}
}

func (t Token) pinned(chain []*x509.Certificate) (*x509.CertPool, error) {
	for _, cert := range chain {
		if cert.IsCA && hashDER(cert.Raw) == t.CAHash {
			pool := x509.NewCertPool()
			pool.AddCert(cert)
			return pool, nil
		}
	}
	return nil, fmt.Errorf("%w: server's authority is not the one the token names", ErrIdentity)
}

// CheckCA tells whether caPEM, received from the join method, is the pinned authority.
func (t Token) CheckCA(caPEM []byte) error {
	got, err := CAHash(caPEM)
	if err != nil {
		return err
	}
	if got != t.CAHash {
		return fmt.Errorf("%w: authority is not the one the token names", ErrIdentity)
	}
	return nil
}
