package api

import (
	"context"
	"net/http"
	"unicode"

	"tarn/controlplane/client"
	"tarn/controlplane/identity"
)

const (
	projectHeader   = "Tarn-Project"
	requestIDHeader = "Tarn-Request-Id"
	leaderHeader    = "Tarn-Leader"
	// reasonHeader says why, for the audit log: 1 to 255 bytes of printable text.
	reasonHeader = client.ReasonHeader
	// defaultProject is where operators work who name none.
	defaultProject = "default"
)

// caller is who asks, and in which project.
type caller struct {
	identity identity.Identity
	grant    grant
	project  string
	// name of a user with a token; empty for a certificate.
	name      string
	requestID string
	// reason that the caller gave in a header, for the audit log.
	reason string
	// remote address, for the audit log.
	remote string
}

type callerKey struct{}

func withCaller(ctx context.Context, who caller) context.Context {
	return context.WithValue(ctx, callerKey{}, who)
}

// callerFrom returns the caller that the middleware found; without one, nobody.
func callerFrom(ctx context.Context) caller {
	who, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		return caller{grant: nobody}
	}
	return who
}

func (c caller) isOperator() bool { return c.grant == operator }

func (c caller) role() string {
	switch c.grant {
	case nobody:
		return "nobody"
	case reader:
		return "client (reader)"
	case member:
		return "client (member)"
	}
	return string(c.identity.Role)
}

// actor is what the log records as who did it.
func (c caller) actor() string {
	if c.grant == nobody {
		return "join token"
	}
	if c.name != "" {
		return "user:" + c.name + "/" + c.identity.ID
	}
	return c.identity.URI()
}

// inProject settles the project that the request works in: a client's own, an
// operator's choice. A client that names another is told, not quietly corrected.
func (c caller) inProject(header http.Header) (caller, error) {
	wanted := header.Get(projectHeader)
	switch c.grant {
	case reader, member:
		c.project = c.identity.Project
		if wanted != "" && wanted != c.project {
			return c, denied("header %s: only operators choose a project", projectHeader)
		}
	case operator:
		c.project = wanted
		if wanted == "" {
			c.project = defaultProject
		}
		if !validProject(c.project) {
			return c, invalid(projectHeader, "is 1 to 255 bytes of printable text")
		}
	}
	return c, nil
}

func validProject(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
