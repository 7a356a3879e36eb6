package observe

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// Lives tells copies of a running agent apart, which share session, lease and every
// counter (docs/design/0004-lives.md). Each answer to a renewal carries a token, and the
// next request the token of the last answer that arrived. Whoever echoes one of this
// leadership's tokens has gone on alone from there: what was answered beside it, to an
// agent that had the same token before, was another life's.
//
// An agent that has one request outstanding at a time, and takes tokens from the answer
// to that one only, is never called another life while it waits for the answer, whatever
// is lost, late or delivered twice. Of requests that nobody waits for any more that may
// be said: no alarm can be made of it here, only by whoever hears it.
//
// In memory only. Safe for concurrent use.
type Lives struct {
	mu     sync.Mutex
	secret []byte
	issued uint64 // tokens
	chains map[string]*chain
}

// chain is one session's under one leadership.
type chain struct {
	term    uint64
	session string
	// confirmed is the last token of this leadership that came back; nil before the first
	// has: then every echo is accepted, as this leadership cannot know any.
	confirmed []byte
}

// NewLives returns an empty table. secret seals its tokens: 32 random bytes that no other
// process has.
func NewLives(secret []byte) *Lives {
	return &Lives{secret: bytes.Clone(secret), chains: make(map[string]*chain)}
}

// Verdict is whose a renewal is.
type Verdict int

const (
	// Same: it may be answered, with the token.
	Same Verdict = iota
	// Another life's: nothing may be granted.
	Another
	// Outdated: it was overtaken by another leadership of this node or another session of
	// the host, and says nothing.
	Outdated
)

// Judge says of whom a renewal is that echoes a token, under a leadership that was proved
// after it had arrived, and draws the token of its answer. Another's are not to count as
// grants: call it before Leases.Grant. current has to tell whether the session is the
// host's registered one; it is called under the lock, so that an overtaken request does not
// put a newer session's chain back to its beginning.
//
// Agents that know of no tokens always echo the empty one, and are never refused: only
// whoever has echoed one of this leadership's is held to it.
func (l *Lives) Judge(term uint64, hostID, session string, echo []byte, current func() bool) (Verdict, []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.chains[hostID]
	if c != nil && term < c.term || !current() {
		return Outdated, nil
	}
	if c == nil || c.term != term || c.session != session {
		c = &chain{term: term, session: session}
		l.chains[hostID] = c
	}
	switch {
	case l.answers(c, hostID, echo):
		c.confirmed = bytes.Clone(echo)
	case c.confirmed != nil && !bytes.Equal(echo, c.confirmed):
		return Another, nil
	}
	l.issued++
	return Same, l.token(c, hostID, l.issued)
}

const (
	numberSize = 8
	sealSize   = 16
)

// answers reports that a token was drawn for an answer to what the chain has confirmed.
// None is remembered: however many answers were lost, the one that arrived counts.
func (l *Lives) answers(c *chain, hostID string, token []byte) bool {
	return len(token) == numberSize+sealSize &&
		hmac.Equal(token, l.token(c, hostID, binary.BigEndian.Uint64(token)))
}

// token is the number of an answer and a seal over it and everything that it answers.
func (l *Lives) token(c *chain, hostID string, number uint64) []byte {
	token := binary.BigEndian.AppendUint64(nil, number)
	seal := hmac.New(sha256.New, l.secret)
	// A hash.Hash never fails.
	_, _ = fmt.Fprintf(seal, "%d %d %q %q %x", number, c.term, hostID, c.session, c.confirmed)
	return seal.Sum(token)[:numberSize+sealSize]
}

// AnotherLife takes note that a second life of a host was heard of at now: it has stopped,
// and says so now and then. True if that is news: none was heard of within the TTL.
func (s *State) AnotherLife(hostID string, now time.Time) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.others[hostID]
	s.others[hostID] = now
	return !known || now.Sub(last) > s.cfg.TTL
}

// OtherLife is when a second life of a host was last heard of in this leadership; zero if
// none was. present says that it was within the TTL at now.
func (s *State) OtherLife(hostID string, now time.Time) (at time.Time, present bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, known := s.others[hostID]
	return at, known && now.Sub(at) <= s.cfg.TTL
}
