package zfs

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	maxToken  = 16 << 10 // characters; real ones have about 200
	maxPacked = 64 << 10 // bytes of the list inside
)

var errToken = errors.New("resume token")

// DecodeToken reads a resume token without asking zfs, so that it costs no process and
// works on either host. ErrTokenInvalid for anything malformed.
func (h *Host) DecodeToken(_ context.Context, token string) (TokenInfo, error) {
	info, err := ParseToken(token)
	if err != nil {
		return TokenInfo{}, &Error{Op: "send", Object: "token", Class: ErrTokenInvalid, Text: err.Error()}
	}
	return info, nil
}

// ParseToken reads the receive_resume_token of OpenZFS: version, checksum, length and
// the compressed list of names and values, as lib/libzfs/libzfs_sendrecv.c writes it.
// Tokens come from the other host and are treated as hostile.
func ParseToken(token string) (TokenInfo, error) {
	packed, err := unpackToken(token)
	if err != nil {
		return TokenInfo{}, fmt.Errorf("%w: %w", errToken, err)
	}
	info, err := readToken(packed)
	if err != nil {
		return TokenInfo{}, fmt.Errorf("%w: %w", errToken, err)
	}
	if _, _, err := ValidateSnapshot(info.ToName); err != nil || info.ToGUID == 0 {
		return TokenInfo{}, fmt.Errorf("%w: names %.300q of GUID %v", errToken, info.ToName, info.ToGUID)
	}
	return info, nil
}

// unpackToken checks the envelope.
func unpackToken(token string) ([]byte, error) {
	parts := strings.Split(token, "-")
	if len(token) > maxToken || len(parts) != 4 || parts[0] != "1" {
		return nil, errors.New("not of version 1")
	}
	sum, err1 := strconv.ParseUint(parts[1], 16, 64)
	length, err2 := strconv.ParseUint(parts[2], 16, 32)
	compressed, err3 := hex.DecodeString(parts[3])
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	if length > maxPacked || fletcher4(compressed) != sum {
		return nil, errors.New("wrong checksum or length")
	}
	z, err := zlib.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	packed, err := io.ReadAll(io.LimitReader(z, int64(length)+1))
	if err != nil || uint64(len(packed)) != length {
		return nil, fmt.Errorf("%d bytes unpacked, want %d: %w", len(packed), length, errors.Join(err, z.Close()))
	}
	return packed, nil
}

// fletcher4 is the first word of the checksum: the sum of the 32-bit words.
func fletcher4(b []byte) (sum uint64) {
	for ; len(b) >= 4; b = b[4:] {
		sum += uint64(binary.LittleEndian.Uint32(b))
	}
	return sum
}

// Types of values in a packed list.
const (
	nvBoolean = 1
	nvUint64  = 8
	nvString  = 9
)

// readToken walks a list in the native encoding: a head of 12 bytes, then pairs of
// {size, name length, reserved, elements, type, name, value}, both parts aligned to 8,
// ended by a size of zero.
func readToken(b []byte) (info TokenInfo, err error) {
	if len(b) < 12 || b[0] != 0 || b[1] > 1 {
		return info, errors.New("list is not in the native encoding")
	}
	var order binary.ByteOrder = binary.LittleEndian
	if b[1] == 0 {
		order = binary.BigEndian
	}
	seen := map[string]bool{}
	for b = b[12:]; ; {
		if len(b) < 4 {
			return info, io.ErrUnexpectedEOF
		}
		n := int(int32(order.Uint32(b)))
		if n == 0 {
			return info, nil
		}
		if n < 16 || n > len(b) {
			return info, errors.New("pair of impossible size")
		}
		name, err := info.pair(b[:n], order)
		if err != nil {
			return info, err
		}
		// zfs(8) may take the first where this takes the last.
		if seen[name] {
			return info, fmt.Errorf("%.80q comes twice", name)
		}
		seen[name] = true
		b = b[n:]
	}
}

func (t *TokenInfo) pair(b []byte, order binary.ByteOrder) (name string, err error) {
	nameLen := int(int16(order.Uint16(b[4:])))
	at := (16 + nameLen + 7) &^ 7
	if nameLen < 1 || 16+nameLen > len(b) {
		return "", errors.New("name of impossible length")
	}
	kind := order.Uint32(b[12:])
	name = string(b[16 : 16+nameLen-1])
	if strings.Contains(name, "\x00") {
		return "", errors.New("name with a NUL byte")
	}
	switch kind {
	case nvBoolean:
		t.Flags.set(name)
	case nvUint64:
		if at+8 > len(b) {
			return "", io.ErrUnexpectedEOF
		}
		t.number(name, order.Uint64(b[at:]))
	case nvString:
		if at > len(b) {
			return "", io.ErrUnexpectedEOF
		}
		value, _, ok := bytes.Cut(b[at:], []byte{0})
		if !ok {
			return "", errors.New("string without an end")
		}
		if name == "toname" {
			t.ToName = string(value)
		}
	}
	return name, nil
}

func (t *TokenInfo) number(name string, v uint64) {
	switch name {
	case "toguid":
		t.ToGUID = GUID(v)
	case "fromguid":
		t.FromGUID = GUID(v)
	case "bytes":
		t.Bytes = int64(min(v, 1<<63-1))
	}
}
