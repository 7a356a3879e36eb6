package cli

import (
	"context"
	"strings"

	"github.com/google/uuid"

	tarnv1 "tarn/proto/tarn/v1"
)

// named is one record that a name could mean.
type named struct{ id, detail string }

// pick makes one id of what was found under a name.
func pick(noun, ref string, found []named) (string, error) {
	switch len(found) {
	case 0:
		return "", fail(exitNotFound, "no %s %q", noun, ref).next("`tarn %s list` shows what there is", noun)
	case 1:
		return found[0].id, nil
	}
	lines := make([]string, len(found))
	for i, f := range found {
		lines[i] = "  " + f.id + "  " + f.detail
	}
	return "", fail(exitUsage, "%s %q is ambiguous:\n%s", noun, ref, strings.Join(lines, "\n")).next("give the id")
}

// asID gives the canonical form when ref is a UUID.
func asID(ref string) (string, bool) {
	if len(ref) != 36 {
		return "", false
	}
	id, err := uuid.Parse(ref)
	return id.String(), err == nil
}

func (a *app) shareID(ctx context.Context, ref string) (string, error) {
	if id, ok := asID(ref); ok {
		return id, nil
	}
	answer, err := a.api.Shares.ListShares(ctx, &tarnv1.ListSharesRequest{Name: ref})
	if err != nil {
		return "", err
	}
	var found []named
	for _, s := range answer.GetShares() {
		found = append(found, named{s.GetId(), enumText(s.GetStatus()) + ", created " + stampText(s.GetCreatedAt())})
	}
	return pick("share", ref, found)
}

func (a *app) snapshotID(ctx context.Context, ref string) (string, error) {
	if id, ok := asID(ref); ok {
		return id, nil
	}
	answer, err := a.api.Snapshots.ListSnapshots(ctx, &tarnv1.ListSnapshotsRequest{Name: ref})
	if err != nil {
		return "", err
	}
	var found []named
	for _, s := range answer.GetSnapshots() {
		found = append(found, named{s.GetId(), "of share " + s.GetShareId()})
	}
	return pick("snapshot", ref, found)
}

// shareTypeID and hostID let the server resolve: its Get takes names.
func (a *app) shareTypeID(ctx context.Context, ref string) (string, error) {
	if id, ok := asID(ref); ok {
		return id, nil
	}
	t, err := a.api.ShareTypes.GetShareType(ctx, &tarnv1.GetRequest{Id: ref})
	return t.GetId(), err
}

func (a *app) hostID(ctx context.Context, ref string) (string, error) {
	if id, ok := asID(ref); ok {
		return id, nil
	}
	h, err := a.api.Hosts.GetHost(ctx, &tarnv1.GetRequest{Id: ref})
	return h.GetId(), err
}

// replicaID takes an id, or SHARE/WHERE with WHERE a zone, a host, a pool or "active".
func (a *app) replicaID(ctx context.Context, ref string) (string, error) {
	if id, ok := asID(ref); ok {
		return id, nil
	}
	share, where, ok := strings.Cut(ref, "/")
	if !ok {
		return "", usage("replica %q is neither an id nor SHARE/ZONE, SHARE/HOST or SHARE/active", ref).
			next("`tarn replica list` shows the ids")
	}
	shareID, err := a.shareID(ctx, share)
	if err != nil {
		return "", err
	}
	answer, err := a.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{ShareId: shareID})
	if err != nil {
		return "", err
	}
	var found []named
	for _, r := range answer.GetReplicas() {
		if replicaIsAt(r, where) {
			found = append(found, named{r.GetId(), enumText(r.GetReplicaState()) + " at " + r.GetHost()})
		}
	}
	return pick("replica", ref, found)
}

func replicaIsAt(r *tarnv1.Replica, where string) bool {
	host, _, _ := strings.Cut(r.GetHost(), "@")
	_, pool, _ := strings.Cut(r.GetHost(), "#")
	switch where {
	case r.GetAvailabilityZone(), host, pool, r.GetHost(), r.GetHostId():
		return true
	}
	return where == enumText(r.GetReplicaState())
}
