package gossip

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
)

// maxKeys bounds a key file: rotation needs two.
const maxKeys = 4

// ParseKeys reads a key file: 32 raw bytes, or lines of hex or base64. The first key
// encrypts, all decrypt. To rotate, in steps that are each done on every member, with a
// restart, before the next: append the new key; move it to the front; take the old one
// away.
func ParseKeys(text []byte) ([][]byte, error) {
	if len(text) == keySize {
		return [][]byte{text}, nil
	}
	var keys [][]byte
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		key, ok := parseKey(string(line))
		if !ok {
			return nil, fmt.Errorf("gossip key %d is not %d bytes in hex or base64", len(keys)+1, keySize)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("a gossip key file has 1 to %d keys, this one has %d", maxKeys, len(keys))
	}
	return keys, nil
}

func parseKey(line string) ([]byte, bool) {
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString} {
		if key, err := decode(line); err == nil && len(key) == keySize {
			return key, true
		}
	}
	return nil, false
}
