package nfs3

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash/fnv"

	"golang.org/x/sys/unix"
)

// node identifies a file for as long as it exists: inode numbers are used again,
// the instant of birth tells the files apart.
type node struct{ ino, born uint64 }

func nodeOf(st *unix.Statx_t) node {
	n := node{ino: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		n.born = uint64(st.Btime.Sec)*1e9 + uint64(st.Btime.Nsec)
	}
	return n
}

// generation makes up for an instant of birth that the file system does not tell: what it puts
// into handles of its own tells files apart, too.
func generation(fd int, st *unix.Statx_t) {
	if st.Mask&unix.STATX_BTIME != 0 {
		return
	}
	own, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return // it has none
	}
	h := fnv.New64a()
	_, _ = h.Write(own.Bytes())
	sum := h.Sum64()
	st.Btime.Sec, st.Btime.Nsec = int64(sum>>32), uint32(sum)
	st.Mask |= unix.STATX_BTIME
}

// FSID identifies a tree to clients.
type FSID [16]byte

// Handles: the tree, the node, and a code that only this host can make, so that
// nobody walks through trees by guessing.
const (
	macBytes    = 16
	handleBytes = 16 + 8 + 8 + macBytes
)

type sealer struct{ key []byte }

func (s sealer) mac(body []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	_, _ = h.Write(body)
	return h.Sum(nil)[:macBytes]
}

func (s sealer) handle(fsid FSID, n node) []byte {
	b := make([]byte, 0, handleBytes)
	b = append(b, fsid[:]...)
	b = binary.BigEndian.AppendUint64(b, n.ino)
	b = binary.BigEndian.AppendUint64(b, n.born)
	return append(b, s.mac(b)...)
}

func (s sealer) open(handle []byte) (FSID, node, error) {
	if len(handle) != handleBytes {
		return FSID{}, node{}, statusBadHandle
	}
	body := handle[:handleBytes-macBytes]
	if !hmac.Equal(s.mac(body), handle[len(body):]) {
		// Of another host, which had the share before: gone, for all that we know.
		return FSID{}, node{}, statusStale
	}
	return FSID(body[:16]), node{binary.BigEndian.Uint64(body[16:]), binary.BigEndian.Uint64(body[24:])}, nil
}
