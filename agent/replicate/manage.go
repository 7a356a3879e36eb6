package replicate

import (
	"fmt"
	"path"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// unmanageable is why a dataset cannot be taken over or given back, with what to do:
// nothing that the agent gets over by itself. Equal sentences are equal errors.
type unmanageable string

// Error implements error.
func (u unmanageable) Error() string { return string(u) }

func unfitf(format string, args ...any) unmanageable {
	return unmanageable(fmt.Sprintf(format, args...))
}

func refuseManaging(u unmanageable) action {
	return refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_NOT_MANAGEABLE, u)
}

// following reports that the replica is to follow another one.
func (s *state) following() bool { return s.a.GetRole() == tarnv1.Role_ROLE_SECONDARY }

// takesOver reports that the replica's data are to come from a dataset that is there.
// Once the replica has been available, a missing dataset is missing; and what was
// taken over and put aside since is replaced like any other.
func (s *state) takesOver() bool {
	return s.a.GetManagedFrom() != "" && !s.a.GetEstablished() && s.f.ds == nil && len(s.f.asides) == 0
}

// needsFormer reports that the dataset's former name has to be looked at.
func (s *state) needsFormer(ds *zfs.Dataset) bool {
	if s.a.GetManagedFrom() == "" {
		return false
	}
	return ds == nil && !s.a.GetEstablished() || s.a.GetRole() == tarnv1.Role_ROLE_RELEASING
}

// marked reports marks of this replica, also where they are being removed.
func (s *state) marked(m marks) bool {
	id := s.a.GetReplicaId()
	return m.replica == id || m.replica == releasedPrefix+id
}

// recorded reports that what the dataset was like is noted on itself.
func (s *state) recorded() bool {
	f := s.f.former
	return f.marks.share == s.a.GetShareId() && f.marks.replica == s.a.GetReplicaId() && local(f.ds, markWas) != ""
}

// takeover makes a dataset that is there the replica's own: compared, recorded, out of
// reach, and only then marked and renamed. Until the rename nothing was changed that
// is not recorded.
func takeover(s *state) []rule {
	f := s.f.former
	if f == nil {
		return []rule{must(true, refuseManaging(nothingThere(s.a.GetManagedFrom())))}
	}
	unfit := s.unfit()
	return []rule{
		must(unfit != "", refuseManaging(unfit)),
		must(s.following() && s.a.GetSource() == nil, refuse(tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_INTERNAL, errNoSource)),
		must(s.following() && !s.compared, do(doCompare)),
		must(!s.recorded(), do(doRecord)),
		must(f.ds.Mounted || !s.formerFree, do(doFree)),
		must(true, do(doTakeOver)),
	}
}

func nothingThere(name string) unmanageable {
	return unfitf("dataset %s does not exist on this host: name one that does, or unmanage this", name)
}

// unfit is why the dataset cannot be taken over as it is; "" if it can.
func (s *state) unfit() unmanageable {
	f, root := s.f.former, s.l.root()
	d := &f.ds
	switch {
	case !strings.HasPrefix(d.Name, s.l.pool+"/"):
		return unfitf("dataset %s is not on pool %s: name a dataset below the pool", d.Name, s.l.pool)
	case d.Name == root || strings.HasPrefix(d.Name, root+"/"):
		return unfitf("dataset %s is where tarn keeps its own: rename it to a place outside of %s first", d.Name, root)
	case strings.HasPrefix(root, d.Name+"/"):
		return unfitf("dataset %s contains %s, where tarn keeps its own: take over one that does not", d.Name, root)
	case f.marks.replica != "" && !s.marked(f.marks):
		return unfitf("dataset %s carries the marks of replica %s: unmanage that one, or remove its tarn: properties", d.Name, f.marks.replica)
	case f.volume:
		return unfitf("%s is no file system: tarn shares file systems, volumes it leaves alone", d.Name)
	case f.below != "":
		return unfitf("dataset %s has others below it, %s for one: take over each by itself, or move them away", d.Name, f.below)
	case d.Origin != "":
		return unfitf("dataset %s is a clone of %s: promote it first (zfs promote)", d.Name, d.Origin)
	case d.ResumeToken != "":
		return unfitf("dataset %s is half received: finish that, or drop it (zfs receive -A)", d.Name)
	case s.unfitKey() != "":
		return s.unfitKey()
	case s.unrelated:
		return unfitf("dataset %s has no snapshot in common with the share's active replica: replicate it first, or create the replica without it", d.Name)
	}
	return s.tooSmall()
}

// unfitKey: an encrypted dataset is a root of its own, since a key that is inherited
// would keep it where it is, and its share is of a type that says so.
func (s *state) unfitKey() unmanageable {
	f, encrypted := s.f.former, s.a.GetEncrypted()
	switch {
	case f.keyRoot == "" && encrypted:
		return unfitf("dataset %s is not encrypted, and the share's type asks for it (tarn:encryption): choose another type", f.ds.Name)
	case f.keyRoot != "" && !encrypted:
		return unfitf("dataset %s is encrypted: choose a share type with tarn:encryption", f.ds.Name)
	case f.keyRoot != "" && f.keyRoot != f.ds.Name:
		return unfitf("dataset %s inherits the key of %s: give it one of its own first (zfs change-key)", f.ds.Name, f.keyRoot)
	case f.locked && !s.following():
		return unfitf("the key of dataset %s is not loaded: load it first (zfs load-key)", f.ds.Name)
	}
	return ""
}

func (s *state) tooSmall() unmanageable {
	d, size := &s.f.former.ds, s.a.GetSizeGib()
	if s.following() || size == 0 || d.Used <= size*gib {
		return ""
	}
	return unfitf("dataset %s uses %d GiB, more than the %d GiB asked for: unmanage this and name a larger size, or none",
		d.Name, ceilGiB(d.Used), size)
}

func ceilGiB(bytes int64) int64 { return (bytes + gib - 1) / gib }

// foundSize is what a share counts with whose size nobody named: the dataset's quota,
// else what it uses; 1 GiB at least.
func foundSize(d *zfs.Dataset) int64 { return max(1, ceilGiB(max(d.Quota, d.RefQuota, d.Used))) }

// formerPath is where clients found the data before they were tarn's.
func (s *state) formerPath() string {
	before, err := parseWas(local(*s.f.ds, markWas))
	if err != nil {
		return ""
	}
	return before.path
}

// misplaced reports that clients would not find the data where they were. A path that
// was refused stays refused for this life.
func (s *state) misplaced() bool {
	d := s.f.ds
	if d == nil || d.Mounted || s.pathTried || local(*d, markWas) == "" {
		return false
	}
	want := s.formerPath()
	return want != d.Mountpoint && (want != "" || d.Mountpoint == "")
}

// releasing holds for a replica that is given back: out of reach, untied, under its
// former name, and what it was.
func releasing(s *state) []rule {
	f, from := &s.f, s.a.GetManagedFrom()
	mine := f.ds != nil && s.marked(f.marks)
	under := f.former != nil && s.marked(f.former.marks)
	taken := f.former != nil && !under
	return []rule{
		must(mine && s.reachable(), do(doUnexport)),
		must(mine && s.open(), do(doUnmount)),
		must(mine && s.token(), do(doAbort)),
		must(mine && !s.untied, do(doUntie)),
		must(mine && from != "" && taken, refuseManaging(unfitf("the name %s is taken: rename that dataset, then the share's can have it back", from))),
		must(mine && from != "" && f.orphan, refuseManaging(unfitf("%s does not exist any more: create it, then %s can be put back", path.Dir(from), from))),
		must(mine && from != "", do(doGiveBack)),
		must(mine, do(doRestore)),
		must(under, do(doRestoreFormer)),
		must(s.stagingToken(), do(doAbortStaging)),
		must(f.staging != nil, do(doDropStaging)),
		must(true, do(doGone)),
	}
}

// unadopted reports a snapshot of the dataset that is to become a user's, and is not
// known to be missing.
func (s *state) unadopted() bool {
	for _, x := range s.a.GetSnapshots() {
		if _, taken := s.f.named(userPrefix + x.GetSnapshotId()); s.adopts(x) && !taken {
			return true
		}
	}
	return false
}

// adopts reports that a wanted snapshot is one that the dataset had before.
func (s *state) adopts(x *tarnv1.WantedSnapshot) bool {
	return x.GetGuid() == 0 && x.GetManagedFrom() != ""
}

// keepsName reports a snapshot that tarn took and that stays when it is nobody's: it
// has no other name.
func keepsName(x *tarnv1.WantedSnapshot) bool { return x.GetRelease() && x.GetManagedFrom() == "" }
