package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	"tarn/raftfsm"
)

// newerState writes an empty state as a later version of tarn would.
type newerState struct{}

func (newerState) WriteTo(w io.Writer) (int64, error) {
	head, err := proto.Marshal(&raftv1.SnapshotHeader{
		Format: 1, ClusterId: "test", Hash: make([]byte, 32), MinCommandVersion: raftfsm.CommandVersion + 1,
	})
	if err != nil {
		return 0, err
	}
	var b bytes.Buffer
	b.Write(binary.AppendUvarint(nil, uint64(len(head))))
	b.Write(head)
	b.WriteByte(0)
	sum := sha256.Sum256(b.Bytes())
	b.Write(sum[:])
	return b.WriteTo(w)
}
