package memzfs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"tarn/zfs"
)

// partial is half a receive.
type partial struct {
	head header
	got  []byte
}

// header opens a stream; it is the resume token, too.
type header struct {
	From, To zfs.GUID
	Name     string
	Creation time.Time
	Offset   int
	Size     int
	Resume   bool
	Fit      string // of the key of a raw stream
	Split    bool   // what was a large block is several
}

func (p *partial) token() string {
	h := p.head
	h.Offset, h.Resume = len(p.got), true
	data, _ := json.Marshal(h)
	return string(data)
}

// DecodeToken reads a resume token.
func (h *Host) DecodeToken(ctx context.Context, token string) (zfs.TokenInfo, error) {
	var t header
	if err := json.Unmarshal([]byte(token), &t); err != nil {
		return zfs.TokenInfo{}, fail("send", "token", zfs.ErrTokenInvalid)
	}
	return zfs.TokenInfo{FromGUID: t.From, ToGUID: t.To, ToName: t.Name, Bytes: int64(t.Offset), Flags: zfs.StreamFlags{Raw: t.Fit != "", LargeBlocks: t.Fit == "" && !t.Split}}, ctx.Err()
}

// Estimate is the size of the stream's content.
func (h *Host) Estimate(ctx context.Context, req zfs.SendRequest) (int64, error) {
	s, err := h.stream(ctx, req)
	if err != nil {
		return 0, err
	}
	return int64(s.Len()), nil
}

// Send makes a stream: a header line, the content, one last byte.
func (h *Host) Send(ctx context.Context, req zfs.SendRequest) (zfs.Stream, error) {
	s, err := h.stream(ctx, req)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(s), nil
}

func (h *Host) stream(ctx context.Context, req zfs.SendRequest) (out *bytes.Buffer, err error) {
	err = h.do(ctx, "send", req.Dataset, func() error {
		head, data, err := h.content(req)
		if err != nil {
			return err
		}
		head.Size = len(data)
		line, _ := json.Marshal(head)
		out = bytes.NewBuffer(append(append(append(line, '\n'), data[head.Offset:]...), 'E'))
		return nil
	})
	return out, err
}

func (h *Host) content(req zfs.SendRequest) (header, []byte, error) {
	if req.ResumeToken != "" {
		return h.resumed(req.ResumeToken)
	}
	s, err := h.snapshotNamed("send", req.Dataset+"@"+req.To)
	if err != nil {
		return header{}, nil, err
	}
	if raw := s.of.secret != nil; raw != req.Flags.Raw {
		return header{}, nil, fail("send", req.Dataset, zfs.ErrStreamFlags) // mixing them ruins the history
	}
	head := header{To: s.guid, Name: s.name, Creation: s.creation, Fit: s.of.fit(), Split: s.of.split || !req.Flags.LargeBlocks && !req.Flags.Raw}
	if req.From != "" {
		guid, txg, ok := s.of.base(req.From)
		if !ok || txg > s.txg {
			return header{}, nil, fail("send", req.Dataset, zfs.ErrBaseMissing)
		}
		head.From = guid
	}
	return head, s.data, nil
}

func (h *Host) resumed(token string) (header, []byte, error) {
	var t header
	if err := json.Unmarshal([]byte(token), &t); err != nil {
		return t, nil, fail("send", "token", zfs.ErrTokenInvalid)
	}
	for _, d := range h.all {
		for _, s := range d.snaps {
			if s.guid == t.To && s.name == t.Name && t.Offset <= len(s.data) {
				return t, s.data, nil
			}
		}
	}
	return t, nil, fail("send", t.Name, zfs.ErrTokenInvalid)
}

// Receive takes a stream in.
func (h *Host) Receive(ctx context.Context, req zfs.ReceiveRequest, r io.Reader) error {
	ds, name, err := zfs.ValidateSnapshot(req.Target)
	if err != nil {
		return err
	}
	in := bufio.NewReader(r)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fail("receive", req.Target, zfs.ErrStreamTruncated)
	}
	var head header
	if json.Unmarshal(line, &head) != nil {
		return fail("receive", req.Target, zfs.ErrStreamCorrupt)
	}
	if req.Raw != (head.Fit != "") {
		return fail("receive", req.Target, zfs.ErrStreamRefused)
	}
	if err := h.do(ctx, "receive", req.Target, func() error { return h.accept(ds, name, head) }); err != nil {
		return err
	}
	got, cut := io.ReadAll(io.LimitReader(in, int64(head.Size-head.Offset)))
	if end, err := in.ReadByte(); cut == nil && (err != nil || end != 'E') {
		cut = errors.Join(err, io.ErrUnexpectedEOF)
	}
	return h.do(context.WithoutCancel(ctx), "received", req.Target, func() error {
		return h.settle(ds, name, head, got, cut != nil, req)
	})
}

// accept checks that a stream fits.
func (h *Host) accept(ds, name string, head header) error {
	d := h.all[ds]
	switch {
	case d == nil && (head.From != 0 || head.Resume):
		return fail("receive", ds, zfs.ErrNotExist)
	case d == nil:
		return nil
	case d.partial != nil && !head.Resume:
		return fail("receive", ds, zfs.ErrResumable)
	case head.Resume && (d.partial == nil || len(d.partial.got) != head.Offset || d.partial.head.To != head.To):
		return fail("receive", ds, zfs.ErrTokenInvalid)
	case head.From == 0 && !head.Resume:
		return fail("receive", ds, zfs.ErrExists)
	case d.find(name) != nil:
		return fail("receive", ds+"@"+name, zfs.ErrExists)
	case head.From == 0:
		return nil
	case d.fit() != head.Fit:
		return fail("receive", ds, zfs.ErrKey)
	case d.split != head.Split:
		return fail("receive", ds, zfs.ErrStreamFlags)
	case len(d.snaps) == 0 || d.snaps[len(d.snaps)-1].guid != head.From:
		return fail("receive", ds, zfs.ErrDiverged)
	case d.written > 0:
		return fail("receive", ds, zfs.ErrModified)
	}
	return nil
}

// settle keeps what arrived: the whole snapshot, or half of it.
func (h *Host) settle(ds, name string, head header, got []byte, cut bool, req zfs.ReceiveRequest) error {
	d, resumable := h.all[ds], req.Resumable
	if d == nil {
		props := map[string]string{zfs.PropReadOnly: "on", zfs.PropCanMount: "noauto"}
		maps.Copy(props, req.Properties)
		d = h.newDataset(ds, props)
		d.split = head.Split
		if head.Fit != "" {
			d.secret = &secret{fit: head.Fit, root: d}
		}
		if !cut || resumable {
			h.all[ds] = d
		}
	}
	if d.partial != nil {
		got = append(slices.Clone(d.partial.got), got...)
	}
	if cut {
		if resumable {
			d.partial = &partial{head: head, got: got}
		}
		return fail("receive", ds, zfs.ErrStreamTruncated)
	}
	d.partial = nil
	d.data = got
	h.txg++
	d.add(&snapshot{name: name, guid: head.To, txg: h.txg, creation: head.Creation})
	return nil
}

// AbortReceive drops half a receive.
func (h *Host) AbortReceive(ctx context.Context, ds string) error {
	return h.do(ctx, "abort", ds, func() error {
		d := h.all[ds]
		if d == nil || d.partial == nil {
			return fail("receive", ds, zfs.ErrNotResumable)
		}
		d.partial = nil
		if len(d.snaps) == 0 {
			delete(h.all, ds)
		}
		return nil
	})
}
