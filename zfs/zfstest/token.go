package zfstest

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// TokenPair is a name of a resume token with its value, a string or a uint64.
type TokenPair struct {
	Name  string
	Value any
}

// ResumeToken makes a receive_resume_token of OpenZFS out of any pairs, as whoever forges
// one can.
func ResumeToken(pairs ...TokenPair) string {
	packed := []byte{0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, p := range pairs {
		packed = append(packed, packPair(p)...)
	}
	packed = append(packed, 0, 0, 0, 0, 0, 0, 0, 0)
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write(packed) // into memory
	_ = z.Close()
	sum := uint64(0)
	for c := b.Bytes(); len(c) >= 4; c = c[4:] {
		sum += uint64(binary.LittleEndian.Uint32(c))
	}
	return fmt.Sprintf("1-%x-%x-%s", sum, len(packed), hex.EncodeToString(b.Bytes()))
}

func packPair(p TokenPair) []byte {
	value, kind := binary.LittleEndian.AppendUint64(nil, 0), uint32(8)
	switch v := p.Value.(type) {
	case uint64:
		binary.LittleEndian.PutUint64(value, v)
	case string:
		value, kind = append([]byte(v), 0), 9
	}
	head := binary.LittleEndian.AppendUint16(make([]byte, 4), uint16(len(p.Name)+1))
	head = binary.LittleEndian.AppendUint16(head, 0)
	head = binary.LittleEndian.AppendUint32(head, 1)
	head = binary.LittleEndian.AppendUint32(head, kind)
	out := padded(append(padded(append(head, append([]byte(p.Name), 0)...)), value...))
	binary.LittleEndian.PutUint32(out, uint32(len(out)))
	return out
}

func padded(b []byte) []byte { return append(b, make([]byte, (8-len(b)%8)%8)...) }
