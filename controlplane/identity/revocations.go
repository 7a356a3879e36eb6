package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"
)

// ErrRevoked is wrapped by every refusal of a peer whose identity was revoked.
var ErrRevoked = fmt.Errorf("%w: revoked", ErrIdentity)

const (
	revocationsFirst = "tarn revocations 1"
	revocationsLast  = "end "
)

// Revocations are the identities that the control plane has revoked, as this machine has
// heard, on its disk. What was revoked once stays so here, whatever a control-plane node
// that lags behind or a restored one says. Safe for concurrent use.
type Revocations struct {
	path string

	mu      sync.Mutex
	known   bool
	unsaved bool // the disk lacks what ids has
	digest  []byte
	ids     map[string]struct{}
}

// OpenRevocations reads what path holds. Without that file nothing is known yet. One that
// is damaged is an error: going without it would let revoked peers in.
func OpenRevocations(path string) (*Revocations, error) {
	r := &Revocations{path: path, ids: map[string]struct{}{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read revoked identities: %w", err)
	}
	if r.ids, err = parseRevocations(text); err != nil {
		return nil, fmt.Errorf("%s: %w; move it away while the control plane can be reached, which then tells the list anew", path, err)
	}
	r.known = true
	return r, nil
}

// Known tells whether a list was ever heard. Until then nobody is refused for being on it.
func (r *Revocations) Known() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

// Digest is that of the list that Take was given last, nil if this process was given none.
func (r *Revocations) Digest() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.digest
}

// Check returns an error that wraps ErrRevoked if the identity was revoked, else nil.
func (r *Revocations) Check(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, revoked := r.ids[id]; revoked {
		return fmt.Errorf("%w: %s", ErrRevoked, id)
	}
	return nil
}

// Take adds a list, of which digest is noted, and returns what is new. It holds from then
// on; an error says that it could not be written down, and Digest stays what it was, so
// that the list comes again. What is no canonical UUID is left out: no certificate has it.
func (r *Revocations) Take(ids []string, digest []byte) (fresh []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if _, old := r.ids[id]; !old && canonicalUUID(id) {
			r.ids[id] = struct{}{}
			fresh = append(fresh, id)
		}
	}
	r.unsaved = r.unsaved || !r.known || len(fresh) > 0
	if err := r.save(); err != nil {
		return fresh, err
	}
	r.known, r.digest = true, bytes.Clone(digest)
	return fresh, nil
}

func (r *Revocations) save() error {
	if !r.unsaved {
		return nil
	}
	dir, name := filepath.Split(r.path)
	err := writeAtomic(dir, file{name, revocationsText(r.ids)})
	if err == nil {
		err = syncDir(dir)
	}
	r.unsaved = err != nil
	return err
}

func canonicalUUID(id string) bool {
	parsed, err := uuid.Parse(id)
	return err == nil && parsed.String() == id
}

func revocationsText(ids map[string]struct{}) []byte {
	lines := append([]string{revocationsFirst}, slices.Sorted(maps.Keys(ids))...)
	return []byte(strings.Join(append(lines, revocationsLast+strconv.Itoa(len(ids))), "\n") + "\n")
}

func parseRevocations(text []byte) (map[string]struct{}, error) {
	body, ended := strings.CutSuffix(string(text), "\n")
	lines := strings.Split(body, "\n")
	last := len(lines) - 1
	if !ended || last < 1 || lines[0] != revocationsFirst || lines[last] != revocationsLast+strconv.Itoa(last-1) {
		return nil, errors.New("the list of revoked identities is damaged")
	}
	ids := make(map[string]struct{}, last-1)
	for _, id := range lines[1:last] {
		if !canonicalUUID(id) {
			return nil, fmt.Errorf("the list of revoked identities is damaged: %q is no UUID", id)
		}
		ids[id] = struct{}{}
	}
	return ids, nil
}
