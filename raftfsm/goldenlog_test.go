package raftfsm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/hashicorp/raft"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// TestGoldenLog2: a log that the release of command version 2 wrote is applied for ever,
// with the same outcomes: their hash stands at the file's end.
func TestGoldenLog2(t *testing.T) {
	const path = "testdata/version2.log"
	if *update {
		n := newNode(t)
		n.do(&raftv1.InitCluster{ClusterId: "c"})
		n.do(&raftv1.SetCommandVersion{Version: 2})
		head := n.log
		world := busyWorld(t)
		world.promoteAll()
		world.try(&raftv1.DeleteShare{Id: "nope"})
		writeLog(t, path, append(head, world.log...))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, want := replay(t, data)
	if f.Halted() != nil || f.View().CommandVersion() != 2 || fmt.Sprintf("%x", f.View().Hash()) != want {
		t.Errorf("halted %v, version %d, hash %x, want %s", f.Halted(), f.View().CommandVersion(), f.View().Hash(), want)
	}
	if again := restored(t, dump(t, f.View())); !bytes.Equal(dump(t, again.View()), dump(t, f.View())) {
		t.Error("its state does not survive a round trip")
	}
}

// writeLog writes each command after its length, a zero, and the hash in hex.
func writeLog(t *testing.T, path string, log []*raft.Log) {
	t.Helper()
	var b bytes.Buffer
	f := New(Config{})
	for i, l := range log {
		b.Write(binary.AppendUvarint(nil, uint64(len(l.Data))))
		b.Write(l.Data)
		f.Apply(&raft.Log{Index: uint64(i + 1), Term: 1, Data: l.Data})
	}
	fmt.Fprintf(&b, "\x00%x", f.View().Hash())
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func replay(t *testing.T, data []byte) (f *FSM, hash string) {
	t.Helper()
	f = New(Config{})
	in := bufio.NewReader(bytes.NewReader(data))
	for i := uint64(1); ; i++ {
		size, err := binary.ReadUvarint(in)
		if err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			rest, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			return f, string(rest)
		}
		cmd := make([]byte, size)
		if _, err := io.ReadFull(in, cmd); err != nil {
			t.Fatal(errors.Join(err, f.Halted()))
		}
		f.Apply(&raft.Log{Index: i, Term: 1, Data: cmd})
	}
}
