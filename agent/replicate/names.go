package replicate

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"tarn/agent/stream"
	"tarn/zfs"
)

// User properties that mark a dataset as tarn's. Only local values count: what a
// stream or a parent brings along is other people's word.
const (
	markShare   = "tarn:share"
	markReplica = "tarn:replica"
	markRole    = "tarn:role"
	markEpoch   = "tarn:epoch"
	// markOp is the promotion that fenced the dataset, or the rebase that is under way.
	markOp = "tarn:op"
	// markPeers are the replicas that may have asked here for a step, where the engine
	// cannot say whose holds there are.
	markPeers = "tarn:peers"
	// markBase is the GUID of the snapshot from which a divergent copy parted, 0 for none.
	markBase = "tarn:base"
	// markFlags are the flags of the streams that the replica received: kept for life,
	// because streams of other flags do not fit its blocks.
	markFlags = "tarn:flags"
	// markSince is when a divergent copy was put aside, RFC 3339.
	markSince = "tarn:since"
)

// Marks are the user properties that this package reads.
func Marks() []string {
	return []string{markShare, markReplica, markRole, markEpoch, markOp, markPeers, markSince, markFrom, markWas, markBase, markFlags}
}

// Values of tarn:role.
const (
	rolePrimary   = "primary"
	roleReplica   = "replica"
	roleFenced    = "fenced"
	roleDivergent = "divergent"
)

// noOp is the value of tarn:op when nothing is under way: old versions of ZFS set no
// empty value.
const noOp = "none"

// Names of snapshots and holds.
const (
	snapPrefix      = "tarn."           // replication snapshots and retired users' ones
	finalPrefix     = "tarn-final-"     // + epoch: the last of an owner
	divergentPrefix = "tarn-divergent-" // + epoch: head of data put aside
	retiredPrefix   = snapPrefix + "x." // + snapshot id: removed by its user, still a base
	holdLast        = "tarn.last."      // + replica: newest received
	holdDivergent   = "tarn:divergent"  // never released by tarn
	rebasePrefix    = "rebase:"         // + GUID of the common snapshot, 0 for none: value of tarn:op
	stagingDir      = ".staging"        // full streams arrive below it
	divergentDir    = ".divergent"      // data put aside live below it
	userPrefix      = stream.UserPrefix // + snapshot id
	holdStep        = stream.HoldPrefix // + receiving replica
	cursorPrefix    = stream.CursorPrefix
)

// layout names everything that one replica may touch.
type layout struct {
	pool, base, share, replica string
}

func (l layout) root() string       { return path.Join(l.pool, l.base) }
func (l layout) dataset() string    { return path.Join(l.root(), l.replica) }
func (l layout) staging() string    { return path.Join(l.root(), stagingDir, l.replica) }
func (l layout) divergents() string { return path.Join(l.root(), divergentDir) }

// aside is the n-th name for data put aside in an epoch.
func (l layout) aside(epoch uint64, n int) string {
	name := l.replica + "-" + strconv.FormatUint(epoch, 10)
	if n > 0 {
		name += "-" + strconv.Itoa(n)
	}
	return path.Join(l.divergents(), name)
}

// share8 is the end of a share's id: of a UUID version 7 that is the random part.
func share8(share string) string { return share[max(0, len(share)-8):] }

// replicationName is the name of a replication snapshot.
func replicationName(share string, epoch, seq uint64) string {
	return fmt.Sprintf("%s%s.%d.%d", snapPrefix, share8(share), epoch, seq)
}

// sequence reads the number back from a name of the epoch; 0 for other names.
func sequence(name, share string, epoch uint64) uint64 {
	rest, ok := strings.CutPrefix(name, fmt.Sprintf("%s%s.%d.", snapPrefix, share8(share), epoch))
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(rest, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// isFinal reports that a snapshot is the last of an epoch's owner.
func isFinal(name string, epoch uint64) bool {
	rest, ok := strings.CutPrefix(name, finalPrefix+strconv.FormatUint(epoch, 10))
	return ok && (rest == "" || rest[0] == '.')
}

// prunable tells replication snapshots from those that belong to users or operators.
func prunable(name string) bool {
	return strings.HasPrefix(name, snapPrefix) || strings.HasPrefix(name, finalPrefix)
}

// cursorName is the bookmark that stands for a base of a replica that is away.
func cursorName(base zfs.GUID, replica string) string {
	return cursorPrefix + base.String() + "." + replica
}

// cursorOwner is the replica of a cursor; "" for everything else.
func cursorOwner(v zfs.Version) string {
	if v.Kind != zfs.KindBookmark {
		return ""
	}
	replica, ok := strings.CutPrefix(v.Name, cursorName(v.GUID, ""))
	if !ok {
		return ""
	}
	return replica
}

// marks are the local tarn properties of a dataset.
type marks struct {
	share, replica, role, op string
	epoch                    uint64
}

func marksOf(d zfs.Dataset) marks {
	m := marks{share: local(d, markShare), replica: local(d, markReplica), role: local(d, markRole), op: local(d, markOp)}
	if m.op == noOp {
		m.op = ""
	}
	if n, err := strconv.ParseUint(local(d, markEpoch), 10, 64); err == nil {
		m.epoch = n
	}
	return m
}

func local(d zfs.Dataset, name string) string {
	if p, ok := d.User[name]; ok && p.Source == zfs.SourceLocal {
		return p.Value
	}
	return ""
}

func (m marks) properties() map[string]string {
	op := m.op
	if op == "" {
		op = noOp
	}
	return map[string]string{
		markShare: m.share, markReplica: m.replica, markRole: m.role,
		markEpoch: strconv.FormatUint(m.epoch, 10), markOp: op,
	}
}

// rebase reads the common GUID from a recorded rebase.
func (m marks) rebase() (common zfs.GUID, ok bool) {
	rest, ok := strings.CutPrefix(m.op, rebasePrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(rest, 10, 64)
	return zfs.GUID(n), err == nil
}
