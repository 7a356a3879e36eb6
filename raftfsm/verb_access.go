package raftfsm

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
)

// maxRules bounds the rules of a share, those on their way out among them. Everything that a
// host has to know is in one answer, which one project's share must not make too large.
const maxRules = 1024

func (tx *txn) allowAccess(c *raftv1.AllowAccess) (*tarnv1.AccessRule, *Error) {
	asked := c.GetAccessRule()
	if err := checkRule(asked); err != nil {
		return nil, err
	}
	if old, exists := tx.s.rule(asked.GetId()); exists {
		if !sameRule(old, asked) {
			return nil, refuse(AlreadyExists, "id", "access rule %q exists with other content", asked.GetId())
		}
		return old, nil
	}
	s, ok := tx.s.share(asked.GetShareId())
	if !ok {
		return nil, missing("share_id", "share", asked.GetShareId())
	}
	if err := tx.checkRuleFits(s, asked); err != nil {
		return nil, err
	}
	rule := &tarnv1.AccessRule{
		Id: asked.GetId(), ShareId: s.GetId(), ProjectId: s.GetProjectId(), AccessType: asked.GetAccessType(),
		AccessTo: asked.GetAccessTo(), AccessLevel: asked.GetAccessLevel(), Metadata: asked.GetMetadata(),
		CreatedAt: tx.now, Revision: tx.s.index,
	}
	tx.putRule(rule)
	tx.raiseAccess(s)
	return rule, nil
}

func checkRule(r *tarnv1.AccessRule) *Error {
	switch {
	case r.GetId() == "":
		return refuse(InvalidArgument, "id", "must be set")
	case r.GetAccessType() != "ip":
		return refuse(InvalidArgument, "access_type", "%q is not supported, only ip is", r.GetAccessType())
	case r.GetAccessTo() == "":
		return refuse(InvalidArgument, "access_to", "must be set")
	}
	if err := checkLevel(r.GetAccessLevel()); err != nil {
		return err
	}
	return checkMetadata(r.GetMetadata())
}

func checkLevel(l tarnv1.AccessLevel) *Error {
	if l != tarnv1.AccessLevel_ACCESS_LEVEL_RW && l != tarnv1.AccessLevel_ACCESS_LEVEL_RO {
		return refuse(InvalidArgument, "access_level", "must be rw or ro")
	}
	return nil
}

func sameRule(a, b *tarnv1.AccessRule) bool {
	return a.GetShareId() == b.GetShareId() && a.GetAccessType() == b.GetAccessType() &&
		a.GetAccessTo() == b.GetAccessTo() && a.GetAccessLevel() == b.GetAccessLevel() &&
		maps.Equal(a.GetMetadata(), b.GetMetadata())
}

func (tx *txn) checkRuleFits(s *tarnv1.Share, asked *tarnv1.AccessRule) *Error {
	if owner, ok := tx.owner(s); ok && leaving(owner.GetStatus()) {
		return refuse(FailedPrecondition, "share_id", "the share is %s", statusWord(owner.GetStatus()))
	}
	rules, denied := 0, 0
	for r := range tx.s.rulesOf(s.GetId()) {
		if rules++; r.GetDenied() {
			denied++
		}
		if !r.GetDenied() && r.GetAccessType() == asked.GetAccessType() && r.GetAccessTo() == asked.GetAccessTo() {
			return refuse(AlreadyExists, "access_to", "rule %s gives %s access already; update or deny that one", r.GetId(), r.GetAccessTo())
		}
	}
	if rules >= maxRules && tx.s.minVersion >= RulesVersion {
		return refuse(ResourceExhausted, "share_id", "the share has %d access rules, of which %d are being denied; give access to prefixes in place of addresses, or deny some", rules, denied)
	}
	return nil
}

// raiseAccess makes every host of the share apply its rules again.
func (tx *txn) raiseAccess(s *tarnv1.Share) {
	next := changeShare(s)
	next.AccessRevision = tx.s.index
	tx.putShare(next)
}

func (tx *txn) updateAccess(c *raftv1.UpdateAccess) (*tarnv1.AccessRule, *Error) {
	old, ok := tx.s.rule(c.GetId())
	if !ok {
		return nil, missing("id", "access rule", c.GetId())
	}
	if err := checkLevel(c.GetAccessLevel()); err != nil {
		return nil, err
	}
	if old.GetDenied() {
		return nil, refuse(FailedPrecondition, "id", "the access rule is being denied; allow access anew instead")
	}
	if old.GetAccessLevel() == c.GetAccessLevel() {
		return old, nil
	}
	next := proto.CloneOf(old)
	next.AccessLevel, next.LevelChanged = c.GetAccessLevel(), true
	next.UpdatedAt, next.Revision = tx.now, tx.s.index
	tx.putRule(next)
	s, _ := tx.s.share(old.GetShareId())
	tx.raiseAccess(s)
	return next, nil
}

func (tx *txn) denyAccess(c *raftv1.DenyAccess) (*tarnv1.AccessRule, *Error) {
	old, ok := tx.s.rule(c.GetId())
	if !ok {
		return nil, missing("id", "access rule", c.GetId())
	}
	if old.GetDenied() {
		return old, nil
	}
	next := proto.CloneOf(old)
	next.Denied, next.UpdatedAt, next.Revision = true, tx.now, tx.s.index
	tx.putRule(next)
	s, _ := tx.s.share(old.GetShareId())
	tx.raiseAccess(s)
	tx.purgeRules(s)
	return next, nil
}

// purgeRules removes the denied rules that no replica may still apply.
func (tx *txn) purgeRules(s *tarnv1.Share) {
	replicas := tx.s.replicasInOrder(s.GetId())
	for _, rule := range slices.Collect(tx.s.rulesOf(s.GetId())) {
		if rule.GetDenied() && appliedEverywhere(rule, replicas) {
			tx.dropRule(rule)
		}
	}
}

func appliedEverywhere(rule *tarnv1.AccessRule, replicas []*tarnv1.Replica) bool {
	for _, r := range replicas {
		if exports(r) && r.GetAppliedAccessRevision() < rule.GetRevision() {
			return false
		}
	}
	return true
}

// exports says if a replica takes part in its share's access: one that does not
// exist yet or is on its way out has a status of its own to tell that.
func exports(r *tarnv1.Replica) bool {
	switch r.GetStatus() {
	case tarnv1.Status_STATUS_CREATING, tarnv1.Status_STATUS_CREATING_FROM_SNAPSHOT:
		return false
	}
	return !leaving(r.GetStatus()) && !managing(r.GetStatus())
}
