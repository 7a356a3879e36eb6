package gossip

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxKeys bounds a key file: rotation needs one more than there are.
const maxKeys = 4

// ErrKeyring is wrapped by every refusal of a key ring.
var ErrKeyring = errors.New("unacceptable gossip keys")

// Phase is how far a rotation is.
type Phase string

// The phases, in the order in which a rotation goes through them.
const (
	PhaseSettled  Phase = ""         // one generation of keys
	PhaseAdding   Phase = "adding"   // the last key is new: understood, not used
	PhaseRetiring Phase = "retiring" // the first key is new and used, the others are still understood
)

// Keyring is the content of a key file: the first key encrypts, all decrypt. Members
// whose key rings are at most one step apart understand each other.
type Keyring struct {
	// Number rises with each step. 0: written by hand, and nobody else's business.
	Number uint64
	Phase  Phase
	Keys   [][]byte // 32 bytes each
	// Begun is who began the rotation that made k.
	Begun Begun
}

// header begins the line of a key file that tells number and phase.
const header = "# tarn ring "

// ParseKeyring reads a key file: 32 raw bytes, or lines of hex or base64. Lines that
// begin with # are comments; Text writes one that tells the number and the phase.
func ParseKeyring(text []byte) (Keyring, error) {
	if len(text) == keySize {
		return Keyring{Keys: [][]byte{text}}, nil
	}
	var k Keyring
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		switch rest, ours := strings.CutPrefix(string(line), header); {
		case len(line) == 0:
		case ours:
			if err := k.readHeader(rest); err != nil {
				return Keyring{}, err
			}
		case bytes.HasPrefix(line, []byte(begunHeader)):
			k.Begun = parseBegun(string(line[len(begunHeader):]))
		case line[0] == '#':
		default:
			key, ok := parseKey(string(line))
			if !ok {
				return Keyring{}, fmt.Errorf("gossip key %d is not %d bytes in hex or base64", len(k.Keys)+1, keySize)
			}
			k.Keys = append(k.Keys, key)
		}
	}
	if k.Number == 0 {
		k.Begun = Begun{} // Nothing was rotated.
	}
	return k, k.Check()
}

func (k *Keyring) readHeader(text string) (err error) {
	number, phase, _ := strings.Cut(text, " ")
	k.Phase = Phase(phase)
	if k.Number, err = strconv.ParseUint(number, 10, 64); err != nil {
		return fmt.Errorf("%w: number %q", ErrKeyring, number)
	}
	return nil
}

func parseKey(line string) ([]byte, bool) {
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString} {
		if key, err := decode(line); err == nil && len(key) == keySize {
			return key, true
		}
	}
	return nil, false
}

// Check says what is wrong with k.
func (k Keyring) Check() error {
	if len(k.Keys) == 0 || len(k.Keys) > maxKeys {
		return fmt.Errorf("%w: a key file has 1 to %d keys, this one has %d", ErrKeyring, maxKeys, len(k.Keys))
	}
	for i, key := range k.Keys {
		if len(key) != keySize {
			return fmt.Errorf("%w: key %d has %d bytes, want %d", ErrKeyring, i+1, len(key), keySize)
		}
		if slices.ContainsFunc(k.Keys[:i], func(other []byte) bool { return bytes.Equal(key, other) }) {
			return fmt.Errorf("%w: key %d is there twice", ErrKeyring, i+1)
		}
	}
	switch {
	case k.Phase == PhaseSettled:
	case k.Phase != PhaseAdding && k.Phase != PhaseRetiring:
		return fmt.Errorf("%w: unknown phase %q", ErrKeyring, k.Phase)
	case k.Number == 0 || len(k.Keys) < 2:
		return fmt.Errorf("%w: phase %q with number %d and %d keys", ErrKeyring, k.Phase, k.Number, len(k.Keys))
	}
	return nil
}

// Text is k as a key file, which ParseKeyring reads back.
func (k Keyring) Text() []byte {
	text := k.plainText()
	if k.Number == 0 {
		return text
	}
	return append([]byte(k.Begun.text()), text...)
}

// plainText is Text without who began it.
func (k Keyring) plainText() []byte {
	var b bytes.Buffer
	if k.Number > 0 {
		fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("%s%d %s", header, k.Number, k.Phase), " "))
	}
	for _, key := range k.Keys {
		fmt.Fprintln(&b, base64.StdEncoding.EncodeToString(key))
	}
	return b.Bytes()
}

// Digest tells k from others without its keys.
func (k Keyring) Digest() []byte {
	sum := sha256.Sum256(k.plainText())
	return sum[:]
}

// Fingerprints name the keys to people.
func (k Keyring) Fingerprints() []string {
	var out []string
	for _, key := range k.Keys {
		sum := sha256.Sum256(key)
		out = append(out, hex.EncodeToString(sum[:4]))
	}
	return out
}

// NewerThan says that members with other have to take k. Two leaders that both began a
// rotation from the same key ring made two of one number: one of them is taken by all.
func (k Keyring) NewerThan(other Keyring) bool {
	if k.Number != other.Number {
		return k.Number > other.Number
	}
	return k.Number > 0 && bytes.Compare(k.Digest(), other.Digest()) > 0
}

// Begin adds a new key, which nobody uses yet: the first step. Begun is the caller's to set.
func (k Keyring) Begin(key []byte) (Keyring, error) {
	if k.Phase != PhaseSettled {
		return Keyring{}, fmt.Errorf("%w: a rotation is under way", ErrKeyring)
	}
	next := Keyring{Number: k.Number + 1, Phase: PhaseAdding, Keys: append(slices.Clone(k.Keys), key)}
	return next, next.Check()
}

// Next is the step after k: use the new key, then forget the others. To be taken when
// every member has k. A settled key ring stays as it is.
func (k Keyring) Next() Keyring {
	last := len(k.Keys) - 1
	switch k.Phase {
	case PhaseAdding:
		return Keyring{Number: k.Number + 1, Phase: PhaseRetiring, Keys: append([][]byte{k.Keys[last]}, k.Keys[:last]...), Begun: k.Begun}
	case PhaseRetiring:
		return Keyring{Number: k.Number + 1, Phase: PhaseSettled, Keys: k.Keys[:1:1], Begun: k.Begun}
	}
	return k
}
