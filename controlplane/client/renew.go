package client

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	tarnv1 "tarn/proto/tarn/v1"
)

// Renew asks one control-plane node after the other to sign a request, DER, for the
// identity that cfg.TLS has, and returns the certificate, PEM, of the first that
// does: a node without the authority's key refuses, and no leader is needed.
func Renew(ctx context.Context, cfg Config, csr []byte) ([]byte, error) {
	var failures []error
	for _, address := range cfg.Addresses {
		one := cfg
		one.Addresses, one.Patience = []string{address}, defaultAttempt
		cert, err := renewAt(ctx, one, csr)
		if err == nil {
			return cert, nil
		}
		failures = append(failures, fmt.Errorf("ask %s: %w", address, err))
	}
	return nil, errors.Join(failures...)
}

func renewAt(ctx context.Context, cfg Config, csr []byte) ([]byte, error) {
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	res, err := c.Join.Renew(ctx, &tarnv1.RenewRequest{Csr: csr})
	if err != nil {
		return nil, err
	}
	if len(res.GetCertificate()) == 0 {
		return nil, connect.NewError(connect.CodeInternal, errors.New("answer has no certificate"))
	}
	return res.GetCertificate(), nil
}
