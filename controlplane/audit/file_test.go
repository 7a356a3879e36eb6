package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	"tarn/raftfsm"
)

// cluster is a state machine that is told what to audit.
type cluster struct {
	t   *testing.T
	fsm *raftfsm.FSM
	n   uint64
}

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, fsm: raftfsm.New(raftfsm.Config{})}
}

func (c *cluster) View() *raftfsm.View { return c.fsm.View() }

func (c *cluster) decide(id string) {
	c.t.Helper()
	c.n++
	cmd := &raftv1.Command{Actor: "spiffe://c/operator/1", ProposedAt: timestamppb.New(time.Unix(1e9, 0)),
		Verb: &raftv1.Command_DeleteMessage{DeleteMessage: &raftv1.DeleteMessage{Id: id}}}
	cmd.Audit = Note(cmd)
	data, err := proto.Marshal(cmd)
	if err != nil {
		c.t.Fatal(err)
	}
	c.fsm.Apply(&raft.Log{Index: c.n, Term: 1, Type: raft.LogCommand, Data: data})
}

func open(t *testing.T, dir string) *File {
	t.Helper()
	l, err := Open(dir, "node", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFileContinuesOverRestartsAndRotation(t *testing.T) {
	dir, c := filepath.Join(t.TempDir(), "audit"), newCluster(t)
	for round := range 4 {
		l := open(t, dir)
		l.limit = 1500
		for i := range 5 {
			c.decide(fmt.Sprint(round, i))
			must(t, l.catchUp(c.View(), slog.New(slog.DiscardHandler)))
			must(t, l.Intend(Entry{Actor: "a", Action: "DeleteShare"}))
		}
		must(t, l.Close())
	}
	files, err := Files(dir)
	if err != nil || len(files) < 4 {
		t.Fatalf("files %v, %v", files, err)
	}
	end, err := VerifyDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := end.Counts(); got.Records != 20 || got.Intents != 20 || got.Chains != 1 || got.Gaps+got.Forks != 0 || end.Head().GetSeq() != 20 {
		t.Errorf("%+v, head %d", got, end.Head().GetSeq())
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
		if _, err := VerifyFile(f); err != nil {
			t.Errorf("alone: %v", err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
}

// TestTamperingIsSeen changes any one byte, and takes out or swaps whole lines.
func TestTamperingIsSeen(t *testing.T) {
	dir, c := t.TempDir(), newCluster(t)
	l := open(t, dir)
	for i := range 3 {
		c.decide(fmt.Sprint(i))
		must(t, l.Intend(Entry{Actor: "a", Reason: "because"}))
	}
	must(t, l.catchUp(c.View(), slog.New(slog.DiscardHandler)))
	path := filepath.Join(dir, FileName)
	good, err := os.ReadFile(path)
	must(t, err)
	check := func(what string, data []byte) {
		t.Helper()
		must(t, os.WriteFile(path, data, 0o600))
		end, err := VerifyDir(dir)
		if !errors.Is(err, ErrChain) && !errors.Is(err, raftfsm.ErrAudit) && end.Counts().First == 1 {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		check(fmt.Sprint("byte ", i), bad)
	}
	lines := slices.Collect(bytes.Lines(good))
	for i := range len(lines) - 1 {
		check(fmt.Sprint("without line ", i), bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil))
	}
	swapped := slices.Clone(lines)
	swapped[1], swapped[2] = swapped[2], swapped[1]
	check("two lines swapped", bytes.Join(swapped, nil))
}

func TestCrashInTheMiddleOfALine(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	must(t, l.Intend(Entry{Actor: "a"}))
	must(t, l.Close())
	path := filepath.Join(dir, FileName)
	good, err := os.ReadFile(path)
	must(t, err)
	for cut := range good {
		must(t, os.WriteFile(path, good[:cut], 0o600))
		l := open(t, dir)
		must(t, l.Intend(Entry{Actor: "b"}))
		must(t, l.Close())
		if _, err := VerifyDir(dir); err != nil {
			t.Fatalf("cut after %d bytes: %v", cut, err)
		}
	}
}

func TestChangedFileIsSetAside(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	must(t, l.Intend(Entry{Actor: "mallory"}))
	must(t, l.Close())
	path := filepath.Join(dir, FileName)
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, bytes.Replace(text, []byte("mallory"), []byte("alice00"), 1), 0o600))
	must(t, open(t, dir).Close())
	aside, err := filepath.Glob(filepath.Join(dir, "broken-*.log"))
	if err != nil || len(aside) != 1 {
		t.Errorf("set aside: %v, %v", aside, err)
	}
	if end, err := VerifyDir(dir); err != nil || end.Counts().Entries != 1 {
		t.Errorf("the new file: %+v, %v", end.Counts(), err)
	}
}

// TestFullDisk: an intent that cannot be written is an error, leaves no half line, and
// the next one that can be written follows.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	real := l.f
	l.f = full
	if err := l.Intend(Entry{Actor: "a"}); err == nil {
		t.Fatal("an intent was written to a full disk")
	}
	must(t, full.Close())
	l.f = real
	must(t, l.Intend(Entry{Actor: "b"}))
	if end, err := VerifyDir(dir); err != nil || end.Counts().Intents != 1 {
		t.Errorf("%+v, %v", end.Counts(), err)
	}
}

// TestStrangersCannotBreakTheFile: what is written of somebody who has no rights at all
// is short, whatever they ask for; else the next start would take the file for changed.
func TestStrangersCannotBreakTheFile(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	long := strings.Repeat("\x01<\xff", 1<<20)
	must(t, l.Denied(Entry{Actor: long, Remote: long, Project: long, Action: long, RequestID: long, Reason: long, Details: long}))
	must(t, l.Close())
	l = open(t, dir)
	must(t, l.Intend(Entry{Actor: "a", Action: "DeleteShare"}))
	end, err := VerifyDir(dir)
	if got := end.Counts(); err != nil || got.Denied != 1 || got.Intents != 1 || got.Chains != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestRotationGoesOn where one broke off: the full file has its new name, and there was no
// room for the next.
func TestRotationGoesOn(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	must(t, l.Intend(Entry{Actor: "a"}))
	must(t, os.Rename(filepath.Join(dir, FileName), filepath.Join(dir, asideName(l.n))))
	l.limit = 1
	must(t, l.Intend(Entry{Actor: "b"}))
	if end, err := VerifyDir(dir); err != nil || end.Counts().Intents != 2 || end.Counts().Chains != 1 {
		t.Errorf("%+v, %v", end.Counts(), err)
	}
}

func TestLinkInPlaceOfTheFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink(filepath.Join(t.TempDir(), "elsewhere"), filepath.Join(dir, FileName)))
	if _, err := Open(dir, "node", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a link was followed")
	}
}

func TestFollowCopiesWhatIsDecided(t *testing.T) {
	dir, c := t.TempDir(), newCluster(t)
	l := open(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Follow(ctx, c, slog.New(slog.DiscardHandler)) }()
	for i := range 50 {
		c.decide(fmt.Sprint(i))
	}
	deadline := time.Now().Add(20 * time.Second)
	for l.Newest() < 50 && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil || l.Newest() != 50 {
		t.Errorf("followed to %d, %v", l.Newest(), err)
	}
}

// TestRestoredClusterIsSeen: a cluster that goes on from a backup has other records
// under the same numbers.
func TestRestoredClusterIsSeen(t *testing.T) {
	dir, before, after := t.TempDir(), newCluster(t), newCluster(t)
	log := slog.New(slog.DiscardHandler)
	l := open(t, dir)
	for i := range 3 {
		before.decide(fmt.Sprint("before", i))
		after.decide(fmt.Sprint("after", i))
	}
	must(t, l.catchUp(before.View(), log))
	must(t, l.catchUp(after.View(), log))
	end, err := VerifyDir(dir)
	if got := end.Counts(); err != nil || got.Forks != 1 || got.Records != 6 {
		t.Errorf("%+v, %v", got, err)
	}
	// A node that has not applied everything yet is no fork.
	must(t, l.catchUp(newCluster(t).View(), log))
	if end, err := VerifyDir(dir); err != nil || end.Counts().Forks != 1 {
		t.Errorf("%+v, %v", end.Counts(), err)
	}
}

func TestRefusalsCannotFillTheDisk(t *testing.T) {
	s := newSuppressor()
	now := time.Unix(1e9, 0)
	written := 0
	for range 100_000 {
		if ok, _ := s.take(now); ok {
			written++
		}
	}
	if written != deniedBurst {
		t.Errorf("%d lines at once", written)
	}
	if ok, before := s.take(now.Add(time.Second)); !ok || before != 100_000-deniedBurst {
		t.Errorf("a second later: %v, %d withheld", ok, before)
	}
}

func TestNotesNameTheirObjectAndNoSecret(t *testing.T) {
	for want, cmd := range map[string]*raftv1.Command{
		"r1": {Verb: &raftv1.Command_PromoteReplica{PromoteReplica: &raftv1.PromoteReplica{Id: "r1", OpId: "op"}}},
		"s1": {Verb: &raftv1.Command_CancelPromotion{CancelPromotion: &raftv1.CancelPromotion{ShareId: "s1"}}},
		"":   {Verb: &raftv1.Command_PutJoinToken{PutJoinToken: &raftv1.PutJoinToken{Token: &raftv1.JoinToken{Hash: "canary", Role: "agent"}}}},
	} {
		note := Note(cmd)
		if note.GetObjectId() != want || strings.Contains(note.String(), "canary") {
			t.Errorf("%v", note)
		}
	}
	if Note(&raftv1.Command{Verb: &raftv1.Command_Transitions{}}) != nil {
		t.Error("reports of hosts are audited")
	}
	long := &raftv1.DeleteMessage{Id: strings.Repeat("ä", maxDetails)}
	if d := Details(long); len(d) > maxDetails+len("…") || !strings.HasSuffix(d, "…") || strings.ContainsRune(d, '\uFFFD') {
		t.Errorf("cut to %d bytes: %q", len(d), d[len(d)-8:])
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte("x {}\n"))
	f.Add([]byte(strings.Repeat("0", 64) + ` {"n":1,"kind":"record","record":{"seq":"1"}}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		end, err := scan(bytes.NewReader(data), chain{})
		if err == nil && end.size > int64(len(data)) {
			t.Errorf("%d bytes read of %d", end.size, len(data))
		}
	})
}

// TestRefusalsOfDaysAreBounded: somebody who is refused ten times a second, day and night,
// leaves a bounded number of lines, and how many there would have been.
func TestRefusalsOfDaysAreBounded(t *testing.T) {
	s := newSuppressor()
	now := time.Now()
	const days, asked = 3, 3 * 24 * 3600 * 5
	written, counted := 0, 0
	for range asked {
		now = now.Add(200 * time.Millisecond)
		if ok, before := s.take(now); ok {
			written, counted = written+1, counted+before
		}
	}
	if written < days*deniedPerDay || written > (days+1)*deniedPerDay {
		t.Errorf("%d lines in %d days", written, days)
	}
	if missing := asked - written - counted; missing != s.withheld {
		t.Errorf("%d are neither written nor counted, %d are still to be told", missing, s.withheld)
	}
	if ok, _ := s.take(now.Add(time.Hour)); !ok {
		t.Error("a refusal after a quiet hour is not written")
	}
}
