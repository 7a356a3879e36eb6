package dirzfs

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"tarn/zfs"
	"tarn/zfs/dirzfs/internal/tree"
)

// streamHead is the first record of a stream.
type streamHead struct {
	Dataset  string // of the sender, for messages and tokens
	Snapshot string
	From     zfs.GUID `json:",omitempty"`
	To       zfs.GUID
	FromRoot tree.Hash `json:",omitzero"`
	ToRoot   tree.Hash
	Creation int64
	Skip     int64 `json:",omitempty"` // items left out: the receiver has them
}

// streamEnd is the last.
type streamEnd struct{ Items int64 }

func (h streamHead) validate() error {
	if err := zfs.ValidateDataset(h.Dataset); err != nil {
		return err
	}
	if err := zfs.ValidateSnapshotName(h.Snapshot); err != nil {
		return err
	}
	if h.To == 0 || h.ToRoot.IsZero() || (h.From == 0) != h.FromRoot.IsZero() || h.Skip < 0 {
		return fmt.Errorf("%w: stream head is incomplete", zfs.ErrInvalid)
	}
	return nil
}

// tokenBody is what a resume token says.
type tokenBody struct {
	Head  streamHead
	Bytes int64
}

// tokenPrefix names the version; the checksum is a prefix of the body's hash: it
// tells damage, not forgery. A sender trusts nothing in a token but looks it up.
const (
	tokenPrefix = "1-"
	tokenSum    = 16
	tokenMax    = 8 << 10
)

// token is the resume token of a receive that was cut.
func (r *partialRec) token() (string, error) {
	head := r.Head
	head.Skip = r.Items
	body, err := json.Marshal(tokenBody{Head: head, Bytes: r.Bytes})
	if err != nil {
		return "", fmt.Errorf("encode token: %w", err)
	}
	sum := tree.Sum(body)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(sum[:tokenSum:tokenSum], body...)), nil
}

func parseToken(token string) (tokenBody, error) {
	bad := func(why string) (tokenBody, error) {
		return tokenBody{}, fmt.Errorf("%w: %s", zfs.ErrTokenInvalid, why)
	}
	text, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok || len(token) > tokenMax {
		return bad("not a token of this engine")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < tokenSum {
		return bad("not base64")
	}
	sum := tree.Sum(raw[tokenSum:])
	if subtle.ConstantTimeCompare(sum[:tokenSum], raw[:tokenSum]) != 1 {
		return bad("checksum")
	}
	var t tokenBody
	if err := json.Unmarshal(raw[tokenSum:], &t); err != nil {
		return bad("malformed")
	}
	if err := t.Head.validate(); err != nil || t.Bytes < 0 {
		return bad("incomplete")
	}
	return t, nil
}

// DecodeToken reads a resume token. It looks nothing up.
func (h *Host) DecodeToken(ctx context.Context, token string) (zfs.TokenInfo, error) {
	t, err := parseToken(token)
	if err != nil {
		return zfs.TokenInfo{}, fail("decode", "token", err)
	}
	return zfs.TokenInfo{
		FromGUID: t.Head.From, ToGUID: t.Head.To, ToName: t.Head.Dataset + "@" + t.Head.Snapshot, Bytes: t.Bytes,
	}, ctx.Err()
}
