// Package identity is the cluster's own certificate authority and the only
// place that turns a certificate into a name.
//
// It hides x509 and TLS configuration: who a peer is (one SPIFFE URI), how a
// certificate is issued, how files are stored and picked up again after a
// change, and how a node that holds nothing but a join token finds out that it
// talks to the right cluster.
//
// It is a leaf: standard library and github.com/google/uuid only.
//
// It promises TLS 1.3, a verified chain to the cluster CA on every connection,
// and refusal of anything that is not exactly one well-formed identity.
package identity
