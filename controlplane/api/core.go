package api

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"tarn/controlplane/observe"
	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

const (
	protoNFS = "NFS"
	accessIP = "ip"
)

// core is what all handlers share.
type core struct {
	Config
	placer *placer
	lives  *observe.Lives
}

// read returns a view that is linearizable unless the caller asked for stale.
func (c *core) read(ctx context.Context, how tarnv1.Consistency) (*raftfsm.View, error) {
	if how == tarnv1.Consistency_CONSISTENCY_STALE {
		return c.State.View(), nil
	}
	if _, err := c.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	return c.State.View(), nil
}

// build turns a request into a command, or into the reason why there is none.
type build func(*raftfsm.View) (*raftv1.Command, error)

// change proposes what b makes of the state and returns the stored record.
//
// It builds on the state that this node has: on the leader that is all but always
// the newest, and the state machine checks again. Only a refusal is worth the
// quorum round that proves it is not merely old news. What was done before under the
// request's key is not built again: its outcome stands.
func (c *core) change(ctx context.Context, b build) (proto.Message, error) {
	key := stepKey(ctx)
	if first, known := c.outcome(ctx, key); known {
		return unpack(first)
	}
	cmd, err := b(c.State.View())
	if err != nil {
		if _, fresh := c.Log.ReadIndex(ctx); fresh != nil {
			return nil, fresh
		}
		if first, known := c.outcome(ctx, key); known {
			return unpack(first)
		}
		if cmd, err = b(c.State.View()); err != nil {
			return nil, err
		}
	}
	cmd.Key = key
	return c.propose(ctx, cmd)
}

// propose stamps who asked and sends the command through the log. Without a key it may
// be done twice by a caller that asks twice: change is for what must not be.
func (c *core) propose(ctx context.Context, cmd *raftv1.Command) (proto.Message, error) {
	who := callerFrom(ctx)
	cmd.Actor, cmd.RequestId = who.actor(), who.requestID
	cmd.Audit = &raftv1.AuditNote{ProjectId: who.project, Reason: who.reason}
	res, err := c.Log.Propose(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return unpack(res)
}

func unpack(res *raftfsm.Result) (proto.Message, error) {
	if res.Err != nil {
		return nil, res.Err
	}
	return res.Record, nil
}

// record gives the answer of a command its type.
func record[M proto.Message](msg proto.Message, err error) (M, error) {
	var none M
	if err != nil {
		return none, err
	}
	typed, ok := msg.(M)
	if !ok {
		return none, fmt.Errorf("state answered %T, want %T", msg, none)
	}
	return typed, nil
}

// done answers commands that leave no record behind.
func done(_ proto.Message, err error) (*tarnv1.Empty, error) {
	if err != nil {
		return nil, err
	}
	return &tarnv1.Empty{}, nil
}

// idOr returns the caller's id, or a new one.
func idOr(given string) string {
	if given != "" {
		return given
	}
	return newID()
}

// newID returns a version 7 UUID; a random one if the clock gives none.
func newID() string {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.NewString()
	}
	return id.String()
}

// mayRead and mayWrite keep projects apart. Operators see every project.
func (c caller) mayWrite(project string) bool {
	return c.isOperator() || (c.project != "" && c.project == project)
}

// The lookups below answer NotFound for what belongs to other projects, in the
// same words as for what does not exist.

func (c caller) share(v *raftfsm.View, id string) (*tarnv1.Share, error) {
	if s, ok := v.Share(id); ok && c.mayWrite(s.GetProjectId()) {
		return s, nil
	}
	return nil, notFound("share", id)
}

// readableShare also finds public shares of other projects.
func (c caller) readableShare(v *raftfsm.View, id string) (*tarnv1.Share, error) {
	if s, ok := v.Share(id); ok && s.GetIsPublic() {
		return s, nil
	}
	return c.share(v, id)
}

func (c caller) replica(v *raftfsm.View, id string) (*tarnv1.Replica, error) {
	if r, ok := v.Replica(id); ok && c.mayWrite(r.GetProjectId()) {
		return r, nil
	}
	return nil, notFound("replica", id)
}

func (c caller) snapshot(v *raftfsm.View, id string) (*tarnv1.Snapshot, error) {
	if s, ok := v.Snapshot(id); ok && c.mayWrite(s.GetProjectId()) {
		return s, nil
	}
	return nil, notFound("snapshot", id)
}

func (c caller) accessRule(v *raftfsm.View, id string) (*tarnv1.AccessRule, error) {
	if r, ok := v.AccessRule(id); ok && c.mayWrite(r.GetProjectId()) {
		return r, nil
	}
	return nil, notFound("access rule", id)
}

// shareType finds a type by id or name; types that are not the caller's to use do not exist.
func (c caller) shareType(v *raftfsm.View, ref string) (*tarnv1.ShareType, error) {
	t, ok := v.ShareType(ref)
	if !ok {
		t, ok = v.ShareTypeByName(ref)
	}
	if ok && c.mayUse(t) {
		return t, nil
	}
	return nil, notFound("share type", ref)
}

func (c caller) mayUse(t *tarnv1.ShareType) bool {
	if t.GetIsPublic() || c.isOperator() {
		return true
	}
	for _, p := range t.GetProjectAccess() {
		if p == c.project {
			return true
		}
	}
	return false
}
