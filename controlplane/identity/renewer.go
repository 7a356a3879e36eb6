package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	// renewCheck bounds the sleep: a suspended machine and a clock that was set
	// are noticed, as are files that somebody else replaced.
	renewCheck = time.Minute
	// maxRetry is the longest pause after an attempt.
	maxRetry = time.Hour
	// renewRetry is the least pause after a failure.
	renewRetry = 10 * time.Second
)

// RenewerConfig of a Renewer. All fields are required.
type RenewerConfig struct {
	// Dir holds the files that Material reads.
	Dir      string
	Material *Material
	// Sign gives a certificate, in PEM, for a signing request, in DER. It says what
	// the present certificate says.
	Sign   func(ctx context.Context, csr []byte) (certPEM []byte, err error)
	Logger *slog.Logger
}

// Renewer replaces a node's certificate when two thirds of its life are over. The
// node's Material takes the new files up by itself. A failure is no reason to stop:
// it is logged and repeated, more often than there are days left for an operator.
type Renewer struct{ cfg RenewerConfig }

// NewRenewer checks the configuration and starts nothing.
func NewRenewer(cfg RenewerConfig) (*Renewer, error) {
	if cfg.Dir == "" || cfg.Material == nil || cfg.Sign == nil || cfg.Logger == nil {
		return nil, errors.New("renewer needs a directory, its material, a signer and a logger")
	}
	return &Renewer{cfg}, nil
}

// Run ends a renewal that was stopped halfway, renews until ctx ends, and returns nil then.
func (r *Renewer) Run(ctx context.Context) error {
	if err := Settle(r.cfg.Dir); err != nil {
		r.cfg.Logger.Error("identity files could not be put in order", "dir", r.cfg.Dir, "err", err)
	}
	for ctx.Err() == nil {
		wait := min(time.Until(r.cfg.Material.RenewAt()), renewCheck)
		// Nobody takes a certificate before its time comes, as after the clock was set back.
		if wait <= 0 || r.cfg.Material.early(time.Now()) {
			wait = r.attempt(ctx)
		}
		pause(ctx, wait)
	}
	return nil
}

// attempt renews and returns how long to wait then.
func (r *Renewer) attempt(ctx context.Context) time.Duration {
	err := r.renew(ctx)
	ends := r.cfg.Material.NotAfter()
	if err == nil {
		r.cfg.Logger.Info("certificate renewed", "ends", ends)
		// Not at once again, should the authority itself be about to end.
		return maxRetry
	}
	if ctx.Err() == nil {
		r.cfg.Logger.Error("certificate could not be renewed, it is tried again", "ends", ends, "err", err)
	}
	wait := max(renewRetry, min(time.Until(ends)/20, maxRetry))
	return wait + rand.N(wait/4)
}

// renew makes a new key, has it signed and stores both, if the authority and the
// identity are what they were: a renewal is no way to change either.
func (r *Renewer) renew(ctx context.Context) error {
	csr, key, err := NewCSR()
	if err != nil {
		return err
	}
	cert, err := r.cfg.Sign(ctx, csr)
	if err != nil {
		return fmt.Errorf("have certificate signed: %w", err)
	}
	ca := r.cfg.Material.CAPEM()
	if err := r.check(ca, cert); err != nil {
		return err
	}
	return SaveNode(r.cfg.Dir, ca, cert, key)
}

func (r *Renewer) check(caPEM, certPEM []byte) error {
	ca, err := parseCertPEM(caPEM)
	if err != nil {
		return err
	}
	cert, err := parseCertPEM(certPEM)
	if err != nil {
		return err
	}
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("new certificate is not by this node's authority: %w", err)
	}
	id, err := FromCertificate(cert)
	if err != nil {
		return err
	}
	if err := r.checkDates(cert.NotBefore, cert.NotAfter); err != nil {
		return err
	}
	have := r.cfg.Material.Identity()
	if id.URI() != have.URI() || id.Project != have.Project || id.ProjectRole != have.ProjectRole {
		return fmt.Errorf("%w: new certificate is of %s, not %s", ErrIdentity, id.URI(), have.URI())
	}
	return nil
}

// checkDates refuses a certificate that is none yet, or no longer, by this machine's clock: a
// signer whose clock is wrong would lock the node out with it. It may be this clock that is
// wrong, though: in the second half of the time that is left, one that starts later is taken.
func (r *Renewer) checkDates(from, to time.Time) error {
	now, m := time.Now(), r.cfg.Material
	spare := m.NotAfter().Sub(m.RenewAt()) / 2
	if now.Before(to) && (!now.Before(from) || m.NotAfter().Sub(now) < spare) {
		return nil
	}
	return fmt.Errorf("new certificate is good from %s to %s, and here it is %s: set the clock right, of this machine or of the control-plane node that signs",
		from.Format(time.RFC3339), to.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
}

// RenewAt returns when two thirds of the current certificate's life are over.
func (m *Material) RenewAt() time.Time {
	leaf := m.current().cert.Leaf
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)
}

// early tells whether the current certificate is not good yet.
func (m *Material) early(now time.Time) bool { return now.Before(m.current().cert.Leaf.NotBefore) }

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
