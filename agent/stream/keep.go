package stream

import (
	"context"
	"errors"
	"fmt"

	"tarn/zfs"
)

// HoldPrefix and the receiving replica's id make the tag under which a source
// holds base and target of that receiver's last step, as of the last Settle.
const HoldPrefix = "tarn.step."

// CursorPrefix, the GUID of a snapshot and ".<receiving replica>" make the name of
// a bookmark that retention put in the place of that receiver's base.
const CursorPrefix = "tarn.c."

// stood is where a receiver stood at its last step: it has base, and to is on its way.
type stood struct{ base, to zfs.GUID }

// note remembers a step until Settle. On ZFS a hold costs a process and a transaction
// group; nothing is destroyed here but by retention, which settles first, so the holds
// need not be renewed with every step.
func (s *Server) note(req pullBody, p plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.steps[req.Source] == nil {
		s.steps[req.Source] = map[string]stood{}
	}
	s.steps[req.Source][req.Replica] = stood{base: p.base.GUID, to: p.to.GUID}
}

// Settle has what the last steps of each receiver stand on held, and what only their
// earlier ones needed let go of: retention has to call it before it decides. versions
// are those of the source replica, read a moment ago; changed says that holds or
// bookmarks are different now. A step that begins meanwhile stands on the target of
// the one before and brings the newest snapshot: neither is retention's to remove.
//
// A restart forgets what was not settled. Then the older holds still stand, and the
// newer bases are among the newest snapshots, of which retention leaves more than are
// taken between two of its runs.
func (s *Server) Settle(ctx context.Context, sourceReplicaID string, versions []zfs.Version) (changed bool, err error) {
	s.mu.Lock()
	steps := s.steps[sourceReplicaID]
	delete(s.steps, sourceReplicaID)
	s.mu.Unlock()
	for receiver, at := range steps {
		if err = s.settle(ctx, receiver, at, versions); err != nil {
			s.putBack(sourceReplicaID, steps)
			return true, err
		}
	}
	return len(steps) > 0, nil
}

// putBack keeps what could not be settled, unless newer steps took its place.
func (s *Server) putBack(source string, steps map[string]stood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.steps[source] == nil {
		s.steps[source] = map[string]stood{}
	}
	for receiver, at := range steps {
		if _, newer := s.steps[source][receiver]; !newer {
			s.steps[source][receiver] = at
		}
	}
}

// settle holds first and lets go then, so that no crash leaves nothing.
func (s *Server) settle(ctx context.Context, receiver string, at stood, versions []zfs.Version) error {
	tag := HoldPrefix + receiver
	var hold, release, cursors []string
	base, _ := find(versions, at.base, true)
	for _, v := range versions {
		switch {
		case v.Kind == zfs.KindBookmark:
			mine := v.Name == CursorPrefix+v.GUID.String()+"."+receiver
			// The receiver said that it has something newer.
			if mine && v.GUID != at.base && v.CreateTXG < base.CreateTXG {
				cursors = append(cursors, v.FullName())
			}
		case v.GUID == at.base || v.GUID == at.to:
			hold = append(hold, v.FullName())
		case v.UserRefs > 0:
			release = append(release, v.FullName())
		}
	}
	if len(hold) > 0 {
		if err := s.cfg.Engine.Hold(ctx, tag, hold...); err != nil {
			return fmt.Errorf("hold base and target: %w", err)
		}
	}
	if len(release) > 0 {
		if err := s.cfg.Engine.Release(ctx, tag, release...); err != nil && !errors.Is(err, zfs.ErrNotExist) {
			return fmt.Errorf("release earlier steps: %w", err)
		}
	}
	for _, cursor := range cursors {
		if err := s.cfg.Engine.DestroyBookmark(ctx, cursor); err != nil && !errors.Is(err, zfs.ErrNotExist) {
			return fmt.Errorf("remove passed cursor: %w", err)
		}
	}
	return nil
}
