package backup

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	raftv1 "tarn/proto/tarn/raft/v1"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/raftfsm"
)

// world is a state with a cluster's name and some records.
func world(t testing.TB) *raftfsm.View {
	t.Helper()
	f := raftfsm.New(raftfsm.Config{})
	index := uint64(0)
	do := func(cmd *raftv1.Command) {
		index++
		cmd.ProposedAt = timestamppb.New(time.Unix(1_900_000_000, 0))
		data, err := proto.Marshal(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if res := f.Apply(&raft.Log{Index: index, Term: 3, Data: data}).(*raftfsm.Result); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	do(&raftv1.Command{Verb: &raftv1.Command_InitCluster{InitCluster: &raftv1.InitCluster{ClusterId: "test"}}})
	for i := range 300 {
		do(&raftv1.Command{Verb: &raftv1.Command_PutShareType{PutShareType: &raftv1.PutShareType{ShareType: &tarnv1.ShareType{
			Id: fmt.Sprintf("t%d", i), Name: fmt.Sprintf("type %d", i),
			ExtraSpecs: map[string]string{"driver_handles_share_servers": "false"},
		}}}})
	}
	return f.View()
}

func file(t testing.TB, v *raftfsm.View) []byte {
	t.Helper()
	info := Describe(v)
	info.TakenAt, info.Version, info.NodeID, info.Term = time.Unix(1_900_000_000, 0).UTC(), "v0.4.0", "node", 3
	info.Servers = []Server{{ID: "node", Address: "192.0.2.1:7400", Voter: true}}
	var b bytes.Buffer
	if err := Write(&b, info, v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCheckSaysWhatIsIn(t *testing.T) {
	v := world(t)
	got, err := Check(bytes.NewReader(file(t, v)))
	if err != nil {
		t.Fatal(err)
	}
	if got.Cluster != "test" || got.Index != 301 || got.Term != 3 || got.Records["share_type"] != 300 || len(got.Servers) != 1 {
		t.Fatalf("%+v", got)
	}
	f := bytes.NewReader(file(t, v))
	state, err := State(f, got)
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if _, err := io.Copy(&again, state); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if _, err := v.WriteTo(&want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Bytes(), want.Bytes()) {
		t.Error("the state in the file is another one")
	}
}

func TestChunksAreTheFile(t *testing.T) {
	v := world(t)
	want := file(t, v)
	info := Describe(v)
	info.TakenAt, info.Version, info.NodeID, info.Term = time.Unix(1_900_000_000, 0).UTC(), "v0.4.0", "node", 3
	info.Servers = []Server{{ID: "node", Address: "192.0.2.1:7400", Voter: true}}
	for _, size := range []int{1, 7, 4096, len(want), 2 * len(want)} {
		var got []byte
		for piece, err := range Chunks(info, v, size) {
			if err != nil || len(piece) == 0 || len(piece) > size {
				t.Fatalf("piece of %d bytes, %v", len(piece), err)
			}
			got = append(got, piece...)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("pieces of %d bytes make another file", size)
		}
	}
	for range Chunks(info, v, 16) {
		break // stopping early must not panic
	}
}

// TestDamageIsNamed flips bytes all over the file and cuts it everywhere.
func TestDamageIsNamed(t *testing.T) {
	good := file(t, world(t))
	for i := range good {
		if i > 600 && i%37 != 0 && i < len(good)-600 {
			continue // the middle is all alike
		}
		bad := bytes.Clone(good)
		bad[i] ^= 0x41
		if _, err := Check(bytes.NewReader(bad)); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		if _, err := Check(bytes.NewReader(good[:i])); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	if _, err := Check(bytes.NewReader(append(bytes.Clone(good), 0))); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
}

func TestNewerFilesAreCalledNewer(t *testing.T) {
	good := file(t, world(t))
	next := bytes.Replace(good, []byte("tarn-backup 1\n"), []byte("tarn-backup 2\n"), 1)
	if _, err := Check(bytes.NewReader(next)); !errors.Is(err, ErrNewer) {
		t.Errorf("format 2: %v", err)
	}
	// A state that needs commands of a later version, in a file that is whole.
	var b bytes.Buffer
	if err := Write(&b, Info{Cluster: "test"}, newerState{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(bytes.NewReader(b.Bytes())); !errors.Is(err, ErrNewer) {
		t.Errorf("command version above ours: %v", err)
	}
}

// TestGoldenFormat1: a backup that this release wrote is readable for ever.
var update = flag.Bool("update", false, "write golden files")

func TestGoldenFormat1(t *testing.T) {
	path := filepath.Join("testdata", "format1.tarnbackup")
	if *update {
		if err := os.WriteFile(path, file(t, world(t)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := Check(f)
	if err != nil {
		t.Fatal(err)
	}
	if got.Cluster != "test" || got.Index != 301 || got.Records["share_type"] != 300 || got.CommandVersion != 1 {
		t.Errorf("%+v", got)
	}
}

func FuzzCheck(f *testing.F) {
	good := file(f, world(f))
	f.Add(good)
	f.Add(good[:200])
	f.Add([]byte("tarn-backup 1\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// With a right checksum, so that it does not shield the rest.
		sum := sha256.Sum256(data)
		for _, b := range [][]byte{data, append(bytes.Clone(data), sum[:]...)} {
			s, err := Check(bytes.NewReader(b))
			if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Errorf("neither damaged nor newer: %v", err)
			}
			if err == nil && s.Size != int64(len(b)) {
				t.Errorf("size %d of %d", s.Size, len(b))
			}
		}
	})
}
