package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	"tarn/cmd/tarn/dev"
	"tarn/cmd/tarn/filetree"
	tarnv1 "tarn/proto/tarn/v1"
)

// failover is a share whose active replica is lost with writes that no copy has.
type failover struct {
	*cluster
	share         string
	active, copy  *tarnv1.Replica
	oldDir        string
	diary         diary
	before        int // entries that the copy has
	op            string
	activeKilled  time.Time
	doomed        string // snapshot that only the old active has
	wholeTreeSize int64
}

// The active's host dies while the copy is behind: promotion by force asks for
// consent, waits for the lease, says what was lost, and is right about it. The old
// host comes back, keeps what it had alone as a divergent copy, and catches up by increment.
func TestForcedFailoverAndRejoin(t *testing.T) {
	f := &failover{cluster: start(t, dev.Options{Servers: 3, Agents: 2, Zones: 2}), op: uuid.NewString()}
	f.prepare()
	f.watchOneWriter([]string{f.active.GetId(), f.copy.GetId()})
	f.loseActive()
	f.withheldWithoutConsent()
	f.promote()
	f.checkLoss()
	f.rejoin()
	f.checkDivergent()
	f.purgeDivergent()
}

func (f *failover) prepare() {
	f.t.Helper()
	f.must("share-type", "create", "gold", "--replication-type", "readable", "--rpo", "10s", "-e", "snapshot_support=true")
	f.share = strings.TrimSpace(f.must("-q", "share", "create", "web", "--type", "gold", "--size", "1", "--zone", "az1", "--wait"))
	f.active = f.replicaAt(f.share, "az1", isWritable)
	f.oldDir = f.active.GetObserved().GetMountpoint()
	tree := filetree.New(7)
	if err := tree.Fill(f.oldDir); err != nil {
		f.t.Fatal(err)
	}
	f.wholeTreeSize = tree.Bytes
	f.must("replica", "create", "web", "--zone", "az2", "--wait")
	if err := f.diary.write(f.oldDir, 20); err != nil {
		f.t.Fatal(err)
	}
	f.copy = f.replicaAt(f.share, "az2", isInSync)
	f.eventually(30*time.Second, "the copy has everything", func(context.Context) error { return f.diary.whole(f.copy.GetObserved().GetMountpoint()) })
	f.before = len(f.diary.entries)
}

// loseActive lets the active run ahead of its copy, by a replication snapshot, a
// user's snapshot and unsnapshotted files, and then kills it.
func (f *failover) loseActive() {
	f.t.Helper()
	if err := f.Kill(f.t.Context(), f.agentOf(f.copy)); err != nil {
		f.t.Fatal(err)
	}
	head := f.replicaAt(f.share, "az1", isWritable).GetObserved().GetHeadGuid()
	if err := f.diary.write(f.oldDir, 15); err != nil {
		f.t.Fatal(err)
	}
	f.replicaAt(f.share, "az1", func(r *tarnv1.Replica) error {
		if r.GetObserved().GetHeadGuid() == head {
			return errors.New("no new replication snapshot")
		}
		return nil
	})
	f.doomed = strings.TrimSpace(f.must("-q", "snapshot", "create", "web", "doomed"))
	f.eventually(20*time.Second, "the doomed snapshot is taken", func(ctx context.Context) error {
		s, err := f.api.Snapshots.GetSnapshot(ctx, &tarnv1.GetRequest{Id: f.doomed})
		if err == nil && s.GetGuid() == 0 {
			err = errors.New("no GUID yet")
		}
		return err
	})
	if err := f.diary.write(f.oldDir, 5); err != nil {
		f.t.Fatal(err)
	}
	f.activeKilled = time.Now()
	if err := f.Kill(f.t.Context(), f.agentOf(f.active)); err != nil {
		f.t.Fatal(err)
	}
	if err := f.Start(f.agentOf(f.copy)); err != nil {
		f.t.Fatal(err)
	}
	f.eventually(30*time.Second, f.agentOf(f.copy)+" is back", func(ctx context.Context) error {
		h, err := f.api.Hosts.GetHost(ctx, &tarnv1.GetRequest{Id: f.agentOf(f.copy)})
		if err == nil && h.GetState() != tarnv1.HostState_HOST_STATE_UP {
			err = fmt.Errorf("it is %s", h.GetState())
		}
		return err
	})
}

// withheldWithoutConsent agrees to lose next to nothing: the failover waits and says so.
func (f *failover) withheldWithoutConsent() {
	f.t.Helper()
	_, err := f.api.Replicas.PromoteReplica(f.t.Context(), &tarnv1.PromoteReplicaRequest{
		Id: f.copy.GetId(), OpId: f.op, Force: true,
		Consent: &tarnv1.Consent{MaxLoss: durationpb.New(time.Millisecond), Reason: "as little as possible"},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.eventually(time.Minute, "a message asks for consent", func(ctx context.Context) error {
		answer, err := f.api.Messages.ListMessages(ctx, &tarnv1.ListMessagesRequest{ResourceId: f.copy.GetId()})
		if err != nil {
			return err
		}
		for _, m := range answer.GetMessages() {
			if strings.Contains(m.GetUserMessage(), "would lose") && strings.Contains(m.GetUserMessage(), "max_loss") {
				return nil
			}
		}
		return fmt.Errorf("%d messages, none about it", len(answer.GetMessages()))
	})
	s := f.shareNow()
	if s.GetFencing().GetPhase() != tarnv1.FencingPhase_FENCING_PHASE_FENCING || s.GetFencing().GetEpoch() != 1 {
		f.t.Errorf("it went on without consent: %v", s.GetFencing())
	}
}

func (f *failover) shareNow() *tarnv1.Share {
	f.t.Helper()
	s, err := f.api.Shares.GetShare(f.t.Context(), &tarnv1.GetRequest{Id: f.share})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// promote repeats the promotion with consent, as an operator would.
func (f *failover) promote() {
	f.t.Helper()
	s := f.tarn("replica", "promote", f.copy.GetId(), "--force", "--op-id", f.op, "--reason", "agent1 burned down", "--wait", "--timeout", "60s")
	f.t.Logf("%s after the active was killed:\n%s", time.Since(f.activeKilled).Round(time.Millisecond), s.stderr)
	if s.code != 0 {
		f.t.Fatalf("exit code %d", s.code)
	}
	for _, want := range []string{"active under epoch 2", "kept: everything up to", "lost: writes of the", "lost snapshot: " + f.doomed} {
		if !strings.Contains(s.stderr, want) {
			f.t.Errorf("does not say %q", want)
		}
	}
	if entries, err := os.ReadDir(f.oldDir); !errors.Is(err, fs.ErrNotExist) && len(entries) > 0 {
		f.t.Errorf("the old active is still reachable: %d entries, %v", len(entries), err)
	}
	f.copy = f.replicaAt(f.share, "az2", isWritable)
}

// checkLoss holds the loss report against what is really gone.
func (f *failover) checkLoss() {
	f.t.Helper()
	fencing := f.shareNow().GetFencing()
	loss := fencing.GetLoss()
	if loss.GetEpochFrom() != 1 || loss.GetEpochTo() != 2 || loss.GetKeptGuid() == 0 || loss.GetBound() != "at_least" {
		f.t.Errorf("loss report: %v", loss)
	}
	if fencing.GetProof() != tarnv1.FencingProof_FENCING_PROOF_LEASE_EXPIRED {
		f.t.Errorf("proof: %s %s", fencing.GetProof(), fencing.GetProofDetail())
	}
	if !slices.ContainsFunc(loss.GetLostSnapshots(), func(s *tarnv1.LostSnapshot) bool { return s.GetSnapshotId() == f.doomed }) {
		f.t.Errorf("lost snapshots: %v", loss.GetLostSnapshots())
	}
	present, missing, err := f.diary.in(f.copy.GetObserved().GetMountpoint())
	if err != nil {
		f.t.Fatal(err)
	}
	if len(present) < f.before || len(missing) == 0 {
		f.t.Fatalf("%d files are present, %d are missing", len(present), len(missing))
	}
	kept, oldest := loss.GetKeptCreatedAt().AsTime(), missing[0]
	if oldest.acked.Before(kept) {
		f.t.Errorf("%s is lost, acknowledged %s before the kept snapshot", oldest.name, kept.Sub(oldest.acked))
	}
	if age := fencing.GetStartedAt().AsTime().Sub(oldest.acked); age > loss.GetKeptAge().AsDuration() {
		f.t.Errorf("%s is lost, %s old; the report says %s", oldest.name, age, loss.GetKeptAge().AsDuration())
	}
	f.t.Logf("%d of %d files lost, the oldest %s before the failover; reported: %s, %d bytes dirty", len(missing), len(f.diary.entries),
		fencing.GetStartedAt().AsTime().Sub(oldest.acked).Round(time.Millisecond), loss.GetKeptAge().AsDuration(), loss.GetLastKnownDirtyBytes())
}

// rejoin starts the old host again; the share goes on meanwhile.
func (f *failover) rejoin() {
	f.t.Helper()
	newDir := f.copy.GetObserved().GetMountpoint()
	if err := writeDurably(newDir, "written under epoch 2", []byte("new times")); err != nil {
		f.t.Fatal(err)
	}
	if err := f.Start(f.agentOf(f.active)); err != nil {
		f.t.Fatal(err)
	}
	f.active = f.replicaAt(f.share, "az1", isInSync)
	f.eventually(time.Minute, "the old active is a copy of the new one", func(context.Context) error {
		r := f.replicaAt(f.share, "az1", isInSync)
		diff, _, err := filetree.Difference(newDir, r.GetObserved().GetMountpoint())
		if err == nil && len(diff) > 0 {
			err = fmt.Errorf("%v", diff)
		}
		return err
	})
	received := sumOf(f.scrape(f.agentOf(f.active)), "tarn_transfer_bytes_total", `direction="receive"`)
	f.t.Logf("rejoining moved %.0f bytes of %d", received, f.wholeTreeSize)
	if received == 0 || int64(received) > f.wholeTreeSize/4 {
		f.t.Errorf("rejoining moved %.0f bytes; the share has %d", received, f.wholeTreeSize)
	}
}

// checkDivergent finds every lost file on the old host, in what the API lists.
func (f *failover) checkDivergent() {
	f.t.Helper()
	f.active = f.replicaAt(f.share, "az1", func(r *tarnv1.Replica) error {
		if len(r.GetDivergentCopies()) == 0 {
			return errors.New("no divergent copy is listed")
		}
		return nil
	})
	d := f.active.GetDivergentCopies()[0]
	if d.GetEpoch() != 1 || d.GetDataset() == "" || d.GetUsedBytes() <= 0 {
		f.t.Errorf("divergent copy: %v", d)
	}
	if shown := f.must("replica", "show", f.active.GetId()); !strings.Contains(shown, d.GetDataset()) {
		f.t.Errorf("tarn replica show does not name %s:\n%s", d.GetDataset(), shown)
	}
	var kept string
	for _, pool := range f.poolDirs(f.agentOf(f.active)) {
		heads, err := filepath.Glob(filepath.Join(pool, "heads", "*"))
		if err != nil {
			f.t.Fatal(err)
		}
		for _, head := range heads {
			if _, missing, err := f.diary.in(head); err == nil && len(missing) == 0 {
				kept = head
			}
		}
	}
	if kept == "" {
		f.t.Errorf("no tree on the old host has all %d acknowledged files", len(f.diary.entries))
	}
}

// purgeDivergent looks at the copy as an operator would, and lets it go. Its replica
// follows all the time, and nobody but that operator's word destroys it.
func (f *failover) purgeDivergent() {
	f.t.Helper()
	d := f.active.GetDivergentCopies()[0]
	guid := strconv.FormatUint(d.GetGuid(), 10)
	if listed := f.must("replica", "divergent", "list", "web"); !strings.Contains(listed, guid) || !strings.Contains(listed, "kept") {
		f.t.Errorf("tarn replica divergent list:\n%s", listed)
	}
	shown := f.must("replica", "divergent", "show", guid)
	for _, want := range []string{d.GetDataset(), "tarn-divergent-1", "heads/" + guid, "held tarn:divergent"} {
		if !strings.Contains(shown, want) {
			f.t.Errorf("tarn replica divergent show does not say %q:\n%s", want, shown)
		}
	}
	if kept := f.must("share", "retention", "web", "--dry-run"); !strings.Contains(kept, "cloned "+d.GetDataset()) {
		f.t.Errorf("retention does not say what the copy keeps:\n%s", kept)
	}
	if refused := f.tarn("replica", "divergent", "purge", guid, "--reason", "checked"); refused.code != codeUsage {
		f.t.Errorf("purge without a confirmation: exit code %d", refused.code)
	}
	f.must("replica", "divergent", "purge", guid, "--reason", "checked", "--yes", "--wait")
	f.replicaAt(f.share, "az1", func(r *tarnv1.Replica) error {
		if len(r.GetDivergentCopies()) > 0 {
			return errors.New("the purged copy is still listed")
		}
		return nil
	})
	for _, pool := range f.poolDirs(f.agentOf(f.active)) {
		if _, err := os.Stat(filepath.Join(pool, "heads", guid)); err == nil {
			f.t.Errorf("files of the purged copy are left in %s", pool)
		}
	}
	// Told when the order is taken back, which is after the list of copies.
	f.eventually(10*time.Second, "the purge is told", func(context.Context) error {
		if said := f.must("message", "list"); !strings.Contains(said, "checked") {
			return fmt.Errorf("nobody is told of the purge:\n%s", said)
		}
		return nil
	})
}
