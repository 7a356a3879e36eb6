package controlplane

import (
	"log"
	"strings"

	"tarn/controlplane/audit"
)

// refusals takes the HTTP server's own messages: handshakes that failed are notes for
// the audit file, because whoever shows a foreign or an expired certificate gets no
// further and no handler ever hears of it.
type refusals struct{ node *Node }

// Write implements io.Writer for one line of the server.
func (r refusals) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	r.node.log.Debug("listener", "message", text)
	rest, failed := strings.CutPrefix(text, "http: TLS handshake error from ")
	// A peer that went away, as every port scan does, was not refused.
	if failed && !strings.HasSuffix(rest, ": EOF") {
		remote, why, _ := strings.Cut(rest, ": ")
		r.node.denied(audit.Entry{Actor: "nobody", Remote: remote, Action: "tls handshake", Details: why})
	}
	return len(line), nil
}

func (n *Node) listenerLog() *log.Logger { return log.New(refusals{n}, "", 0) }

// refusedRaft notes a peer with a certificate of the cluster but no business in the log.
func (n *Node) refusedRaft(peer, remote string) {
	n.denied(audit.Entry{Actor: peer, Remote: remote, Action: "raft"})
}

// revoked tells the port that an identity is not let in any more.
func (n *Node) revoked(id string) bool { return n.fsm.View().Revoked(id) }

func (n *Node) denied(e audit.Entry) {
	if err := n.audit.Denied(e); err != nil {
		n.log.Error("a refusal could not be written to the audit file", "err", err)
	}
}
