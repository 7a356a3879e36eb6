package stream

import (
	"context"
	"errors"
	"maps"
	"slices"

	"tarn/zfs"
)

// HoldPrefix and the receiving replica's id make the tag under which a source
// holds base and target of that receiver's last step. The holds stay until the
// next step replaces them, so the newest common snapshot is always held.
const HoldPrefix = "tarn.step."

// CursorPrefix, the GUID of a snapshot and ".<receiving replica>" make the name of
// a bookmark that retention put in the place of that receiver's base.
const CursorPrefix = "tarn.c."

// upkeep is what one step changes about holds on the source.
type upkeep struct {
	source string // replica
	tag    string
	// guids of base and target, in use until they are held.
	guids []zfs.GUID
	// hold are base and target of the step.
	hold []string
	// release are the snapshots of earlier steps, cursors their bookmarks.
	release, cursors []string
}

// queued upkeep beyond this is done by the step itself.
const maxQueued = 4096

// keep has base and target of p held for the receiver, and what its earlier steps
// left let go of. On ZFS each of the calls waits for a transaction group, so the
// stream does not wait for them: meanwhile the storage itself keeps what is being
// sent, the base is held since the step that brought it, and the target is among
// the newest snapshots, which retention does not touch.
func (s *Server) keep(ctx context.Context, versions []zfs.Version, req pullBody, p plan) {
	u := upkeep{source: req.Source, tag: HoldPrefix + req.Replica}
	for _, v := range versions {
		switch {
		case v.Kind == zfs.KindBookmark:
			mine := v.Name == CursorPrefix+v.GUID.String()+"."+req.Replica
			// The receiver said that it has something newer.
			if mine && v.GUID != p.base.GUID && v.CreateTXG < p.base.CreateTXG {
				u.cursors = append(u.cursors, v.FullName())
			}
		case v.GUID == p.base.GUID || v.GUID == p.to.GUID:
			u.hold, u.guids = append(u.hold, v.FullName()), append(u.guids, v.GUID)
		case v.UserRefs > 0:
			u.release = append(u.release, v.FullName())
		}
	}
	s.using(u, 1)
	select {
	case s.queue <- u:
	default:
		s.upkeep(ctx, []upkeep{u})
	}
}

// using counts who needs a snapshot that is not held yet.
func (s *Server) using(u upkeep, change int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used[u.source] == nil {
		s.used[u.source] = map[zfs.GUID]int{}
	}
	m := s.used[u.source]
	for _, g := range u.guids {
		if m[g] += change; m[g] <= 0 {
			delete(m, g)
		}
	}
	if len(m) == 0 {
		delete(s.used, u.source)
	}
}

// InUse are the snapshots of a source replica that a step needs and that are not
// held yet: retention must not touch them.
func (s *Server) InUse(sourceReplicaID string) []zfs.GUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.used[sourceReplicaID]))
}

// Run keeps holds and bookmarks as the steps need them until ctx ends, which is
// the only error it returns. Steps of many shares that end together cost one call
// for each of their tags.
func (s *Server) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case u := <-s.queue:
			s.upkeep(ctx, s.drain(u))
		}
	}
}

func (s *Server) drain(first upkeep) []upkeep {
	batch := []upkeep{first}
	for {
		select {
		case u := <-s.queue:
			batch = append(batch, u)
		default:
			return batch
		}
	}
}

// upkeep holds first and lets go then, so that no crash leaves nothing. What fails
// is tried again with the next step of its receiver.
func (s *Server) upkeep(ctx context.Context, batch []upkeep) {
	tags := map[string][]upkeep{}
	for _, u := range batch {
		defer s.using(u, -1)
		tags[u.tag] = append(tags[u.tag], u)
	}
	for tag, list := range tags {
		held := s.together(ctx, "hold base and target", list, func(u upkeep) []string { return u.hold }, func(names []string) error {
			return s.cfg.Engine.Hold(ctx, tag, names...)
		})
		s.together(ctx, "release earlier steps", held, func(u upkeep) []string { return u.release }, func(names []string) error {
			return s.cfg.Engine.Release(ctx, tag, names...)
		})
		for _, u := range held {
			for _, cursor := range u.cursors {
				if err := s.cfg.Engine.DestroyBookmark(ctx, cursor); err != nil && !errors.Is(err, zfs.ErrNotExist) {
					s.cfg.Logger.Warn("remove passed cursor", "bookmark", cursor, "err", err)
				}
			}
		}
	}
}

// together makes one call for all of list, and if that fails one for each; it
// gives those for which it went well.
func (s *Server) together(ctx context.Context, what string, list []upkeep, names func(upkeep) []string, call func([]string) error) (done []upkeep) {
	var all []string
	for _, u := range list {
		all = append(all, names(u)...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) == 0 || call(all) == nil {
		return list
	}
	for _, u := range list {
		one := names(u)
		if len(one) == 0 {
			done = append(done, u)
			continue
		}
		err := call(one)
		if err == nil || errors.Is(err, zfs.ErrNotExist) {
			done = append(done, u)
		} else if ctx.Err() == nil {
			s.cfg.Logger.Warn(what, "tag", u.tag, "err", err)
		}
	}
	return done
}
