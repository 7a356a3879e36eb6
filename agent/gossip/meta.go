package gossip

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/encoding/protowire"
)

// Role says what a member is.
type Role uint8

// The roles in the ring.
const (
	RoleAgent   Role = 1
	RoleControl Role = 2
)

// Bounds of Meta's texts, in bytes, chosen so that the longest fits memberlist's
// 512. It panics above that.
const (
	MaxZone    = 255 // as long as Manila's availability zones get
	MaxAddress = 90  // host:port
)

// metaVersion is the newest schema this program writes. Fields may be added
// under the same version: readers skip what they do not know.
const metaVersion = 1

// ErrMeta is wrapped by every refusal of a Meta.
var ErrMeta = errors.New("unacceptable member metadata")

// Meta is what a member tells all others about itself. What does not fit goes to
// the control plane over RPC, at registration.
type Meta struct {
	Role          Role
	HostID        string // canonical UUID, equal to the member's name
	Zone          string // availability zone, up to MaxZone bytes
	APIAddress    string // control plane: host:port of the API, up to MaxAddress bytes
	StreamAddress string // agent: host:port of the stream listener, up to MaxAddress bytes
	Capabilities  uint64 // hash of the capability document; a change means: ask again
	Pools         uint32 // storage pools of an agent
	Leaving       bool   // set by Leave: memberlist does not tell listeners a departure from a failure
}

// Field numbers, as in a protobuf message. Never reused.
const (
	fieldVersion = 1 + iota
	fieldRole
	fieldHost
	fieldZone
	fieldAPI
	fieldStream
	fieldCapabilities
	fieldPools
	fieldLeaving
)

func (m Meta) check() error {
	id, err := uuid.Parse(m.HostID)
	switch {
	case m.Role != RoleAgent && m.Role != RoleControl:
		return fmt.Errorf("%w: unknown role %d", ErrMeta, m.Role)
	case err != nil || id.String() != m.HostID:
		return fmt.Errorf("%w: host id %q is not a canonical UUID", ErrMeta, m.HostID)
	case len(m.Zone) > MaxZone:
		return fmt.Errorf("%w: zone of %d bytes, at most %d", ErrMeta, len(m.Zone), MaxZone)
	case len(m.APIAddress) > MaxAddress || len(m.StreamAddress) > MaxAddress:
		return fmt.Errorf("%w: address of more than %d bytes", ErrMeta, MaxAddress)
	}
	return nil
}

// encode returns at most memberlist.MetaMaxSize bytes.
func (m Meta) encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	host := uuid.MustParse(m.HostID) // checked above
	var b []byte
	number := func(field protowire.Number, v uint64) {
		b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
	}
	text := func(field protowire.Number, v []byte) {
		b = protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
	}
	number(fieldVersion, metaVersion)
	number(fieldRole, uint64(m.Role))
	text(fieldHost, host[:])
	text(fieldZone, []byte(m.Zone))
	text(fieldAPI, []byte(m.APIAddress))
	text(fieldStream, []byte(m.StreamAddress))
	b = protowire.AppendFixed64(protowire.AppendTag(b, fieldCapabilities, protowire.Fixed64Type), m.Capabilities)
	number(fieldPools, uint64(m.Pools))
	if m.Leaving {
		number(fieldLeaving, 1)
	}
	if len(b) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMeta, len(b), memberlist.MetaMaxSize)
	}
	return b, nil
}

// decodeMeta reads what encode wrote, of this or a later version.
func decodeMeta(b []byte) (Meta, error) {
	var m Meta
	if len(b) > memberlist.MetaMaxSize {
		return m, fmt.Errorf("%w: %d bytes, at most %d", ErrMeta, len(b), memberlist.MetaMaxSize)
	}
	for len(b) > 0 {
		n, err := m.decodeField(b)
		if err != nil {
			return Meta{}, err
		}
		b = b[n:]
	}
	return m, m.check()
}

// decodeField reads one field and returns its length.
func (m *Meta) decodeField(b []byte) (int, error) {
	field, kind, tag := protowire.ConsumeTag(b)
	if tag < 0 {
		return 0, fmt.Errorf("%w: %w", ErrMeta, protowire.ParseError(tag))
	}
	n, err := 0, error(nil)
	switch kind {
	case protowire.VarintType:
		var v uint64
		v, n = protowire.ConsumeVarint(b[tag:])
		err = m.setNumber(field, v)
	case protowire.BytesType:
		var v []byte
		v, n = protowire.ConsumeBytes(b[tag:])
		if n >= 0 {
			err = m.setText(field, v)
		}
	case protowire.Fixed64Type:
		var v uint64
		v, n = protowire.ConsumeFixed64(b[tag:])
		if field == fieldCapabilities {
			m.Capabilities = v
		}
	default:
		n = protowire.ConsumeFieldValue(field, kind, b[tag:])
	}
	if n < 0 {
		return 0, fmt.Errorf("%w: %w", ErrMeta, protowire.ParseError(n))
	}
	return tag + n, err
}

func (m *Meta) setNumber(field protowire.Number, v uint64) error {
	switch field {
	case fieldRole:
		if v > 255 {
			return fmt.Errorf("%w: unknown role %d", ErrMeta, v)
		}
		m.Role = Role(v)
	case fieldPools:
		if v > 1<<32-1 {
			return fmt.Errorf("%w: %d pools", ErrMeta, v)
		}
		m.Pools = uint32(v)
	case fieldLeaving:
		m.Leaving = v != 0
	}
	return nil
}

func (m *Meta) setText(field protowire.Number, v []byte) error {
	switch field {
	case fieldHost:
		id, err := uuid.FromBytes(v)
		if err != nil {
			return fmt.Errorf("%w: host id of %d bytes", ErrMeta, len(v))
		}
		m.HostID = id.String()
	case fieldZone:
		m.Zone = string(v)
	case fieldAPI:
		m.APIAddress = string(v)
	case fieldStream:
		m.StreamAddress = string(v)
	}
	return nil
}
