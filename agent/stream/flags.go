package stream

import (
	"context"
	"fmt"

	"tarn/zfs"
)

// parseFlags reads flags of the wire; nil for none.
func parseFlags(s string) (*zfs.StreamFlags, error) {
	if s == "" {
		return nil, nil
	}
	f, err := zfs.ParseStreamFlags(s)
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// flags of the next stream. What the receiver took so far decides; a receiver that
// knows of nothing follows a source that was a receiver itself: a former owner then
// gets its blocks back as it gave them. Only where neither knows, the two negotiate.
func (s *Server) flags(ctx context.Context, g Grant, req pullBody) (zfs.StreamFlags, error) {
	if g.Raw {
		return zfs.StreamFlags{Raw: true}, nil
	}
	if req.Token != "" && req.Flags == "" {
		// It says itself how it goes on; of large blocks only where there are some.
		info, err := s.cfg.Engine.DecodeToken(ctx, req.Token)
		return info.Flags, err
	}
	var can zfs.StreamFlags
	if s.cfg.Can != nil {
		can = s.cfg.Can()
	}
	able, err := parseFlags(req.Can)
	if err != nil {
		return zfs.StreamFlags{}, err
	}
	if able == nil {
		able = &zfs.StreamFlags{}
	}
	for _, known := range []string{req.Flags, g.Flags} {
		kept, err := parseFlags(known)
		switch {
		case err != nil:
			return zfs.StreamFlags{}, err
		case kept == nil:
			continue
		case !kept.Within(can) || !kept.Within(*able):
			return zfs.StreamFlags{}, &zfs.Error{
				Op: "send", Object: g.Dataset, Class: zfs.ErrStreamFlags,
				Text: fmt.Sprintf("streams of this replica are %s, this host sends %s, the receiver takes %s", kept, can, able),
				Next: "bring both hosts to a version of ZFS that can, or delete the replica and create it anew",
			}
		}
		return *kept, nil
	}
	return zfs.NegotiateFlags(can, *able, false)
}
