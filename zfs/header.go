package zfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// StreamHeadSize is the length in bytes of the record that a stream begins with.
const StreamHeadSize = 312

// StreamHeader is what the first record of a ZFS stream says about it. It comes from
// the sender and is not covered by a checksum of its own.
type StreamHeader struct {
	ToGUID   GUID
	FromGUID GUID // 0 for a full stream
	ToName   string
	Flags    StreamFlags
	Resuming bool // it goes on where a token says
	compound bool // carries properties and perhaps many datasets (send -R, -p)
	clone    bool // becomes a clone of whatever local snapshot has FromGUID
	volume   bool
	payload  bool // a list follows the head
	features uint64
}

const (
	streamMagic      = 0x2F5bacbac
	streamSub        = 1
	streamCompound   = 2
	streamFilesystem = 2
	streamVolume     = 3
	streamFlagClone  = 1

	featureDedup      = 1<<0 | 1<<1
	featureEmbed      = 1 << 16
	featureLargeBlock = 1 << 19
	featureResuming   = 1 << 20
	featureRedacted   = 1 << 21
	featureCompressed = 1 << 22
	featureRaw        = 1 << 24
	featureHolds      = 1 << 26
)

var errHead = errors.New("not the beginning of a ZFS stream")

// ParseStreamHeader reads the first StreamHeadSize bytes of a stream, in either byte
// order. The format is that of the struct dmu_replay_record in OpenZFS'
// include/sys/zfs_ioctl.h, the same since pool version 2.
func ParseStreamHeader(head []byte) (StreamHeader, error) {
	if len(head) < StreamHeadSize {
		return StreamHeader{}, fmt.Errorf("%w: %d bytes of %d", io.ErrUnexpectedEOF, len(head), StreamHeadSize)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint64(head[8:]) != streamMagic {
		order = binary.BigEndian
	}
	if order.Uint64(head[8:]) != streamMagic || order.Uint32(head) != 0 {
		return StreamHeader{}, fmt.Errorf("%w: bad magic number", errHead)
	}
	info, kind := order.Uint64(head[16:]), order.Uint32(head[32:])
	features := info >> 2 & (1<<30 - 1)
	h := StreamHeader{
		ToGUID: GUID(order.Uint64(head[40:])), FromGUID: GUID(order.Uint64(head[48:])),
		Flags: StreamFlags{
			Raw: features&featureRaw != 0, LargeBlocks: features&featureLargeBlock != 0,
			Compressed: features&featureCompressed != 0, Embedded: features&featureEmbed != 0,
		},
		Resuming: features&featureResuming != 0,
		compound: info&3 == streamCompound, clone: order.Uint32(head[36:])&streamFlagClone != 0,
		volume: kind == streamVolume, payload: order.Uint32(head[4:]) != 0, features: features,
	}
	name, _, terminated := bytes.Cut(head[56:StreamHeadSize], []byte{0})
	if h.payload && features&(featureResuming|featureRaw|featureRedacted) == 0 && !h.compound {
		return StreamHeader{}, fmt.Errorf("%w: a payload without a reason", errHead)
	}
	if h.ToName = string(name); !terminated || info&3 != streamSub && !h.compound || kind != streamFilesystem && !h.volume && !h.compound {
		return StreamHeader{}, fmt.Errorf("%w: kind %d of dataset type %d", errHead, info&3, kind)
	}
	return h, nil
}

// acceptable refuses streams that do more than bring one snapshot of one filesystem:
// properties (they could mount over the host's files or export them), several
// datasets, clones of data that is here and not the sender's, volumes.
func (h StreamHeader) acceptable(want GUID, raw bool) error {
	switch {
	case h.compound:
		return errors.New("it carries properties or several datasets")
	case h.clone:
		return errors.New("it asks to become a clone of other data on this host")
	case h.volume:
		return errors.New("it is of a volume; tarn replicates filesystems")
	case h.features&featureDedup != 0 || h.features&featureRedacted != 0 || h.features&featureHolds != 0:
		return errors.New("it is deduplicated, redacted or carries holds")
	case h.ToGUID == 0:
		return errors.New("it names no snapshot")
	case raw != h.Flags.Raw:
		return fmt.Errorf("raw is %v, expected was %v: the two ends do not agree whether the share is encrypted", h.Flags.Raw, raw)
	case want != 0 && want != h.ToGUID:
		return fmt.Errorf("it brings snapshot %v, asked for was %v", h.ToGUID, want)
	}
	return nil
}
