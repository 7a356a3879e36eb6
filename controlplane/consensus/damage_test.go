package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// entriesOf reads the log of a stopped member, whole.
func entriesOf(t *testing.T, dir string) string {
	t.Helper()
	db, err := raftboltdb.New(raftboltdb.Options{
		Path: filepath.Join(dir, dbFile), BoltOptions: &bbolt.Options{ReadOnly: true}, MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	logs := sealedLog{db}
	last, err := logs.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := uint64(1); i <= last; i++ {
		var l raft.Log
		if err := logs.GetLog(i, &l); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d %d %d %s\n", l.Index, l.Term, l.Type, l.Data)
	}
	term, err := db.GetUint64([]byte(stableTerm))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(term, b.String())
}

// TestNoDamageIsSilent zeroes every page of the log in turn, spoils the middle of each,
// and cuts the file at every page: each time the directory is refused, or nothing that
// it held has changed.
func TestNoDamageIsSilent(t *testing.T) {
	c := &cluster{t: t}
	m := c.add(func(cfg *Config) { cfg.BootstrapExpect = 1 })
	for i := range 30 {
		c.write(fmt.Sprint("entry ", i))
	}
	for range 3 { // these span pages that have no header of their own
		c.write(strings.Repeat("long ", 4000))
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	want := entriesOf(t, m.dir)
	good, err := os.ReadFile(filepath.Join(m.dir, dbFile))
	if err != nil {
		t.Fatal(err)
	}
	refused, harmless := 0, 0
	try := func(what string, bad []byte) {
		if err := os.WriteFile(filepath.Join(m.dir, dbFile), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkDir(m.dir, m.node.ID())
		switch {
		case errors.Is(err, ErrTorn):
			refused++
		case err != nil:
			t.Errorf("%s: %v, want ErrTorn", what, err)
		default:
			harmless++
			if got := entriesOf(t, m.dir); got != want {
				t.Errorf("%s: accepted with another content", what)
			}
		}
	}
	page := os.Getpagesize()
	for at := 0; at < len(good); at += page {
		zeroed := bytes.Clone(good)
		clear(zeroed[at : at+page])
		try(fmt.Sprint("page zeroed at ", at), zeroed)
		half := bytes.Clone(good)
		clear(half[at+page/2 : at+page])
		try(fmt.Sprint("half a page zeroed at ", at), half)
		try(fmt.Sprint("cut at ", at), good[:at])
	}
	t.Logf("%d pages: refused %d times, harmless %d times", len(good)/page, refused, harmless)
	if refused < 10 {
		t.Errorf("only %d refusals", refused)
	}
	for at := range 2 { // the first two pages say what is current
		spoiled := bytes.Clone(good)
		spoiled[at*page+metaAt+40] ^= 1
		if err := os.WriteFile(filepath.Join(m.dir, dbFile), spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkDir(m.dir, m.node.ID()); !errors.Is(err, ErrTorn) {
			t.Errorf("meta page %d damaged: %v", at, err)
		}
	}
}

func TestSealsAreChecked(t *testing.T) {
	inner := raft.NewInmemStore()
	logs := sealedLog{inner}
	entry := &raft.Log{Index: 1, Term: 2, Type: raft.LogCommand, Data: []byte("abc")}
	if err := logs.StoreLog(entry); err != nil {
		t.Fatal(err)
	}
	var got raft.Log
	if err := logs.GetLog(1, &got); err != nil || string(got.Data) != "abc" || got.Extensions != nil || entry.Extensions != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, spoil := range map[string]func(*raft.Log){
		"data": func(l *raft.Log) { l.Data = []byte("abd") },
		"term": func(l *raft.Log) { l.Term = 3 },
		"type": func(l *raft.Log) { l.Type = raft.LogNoop },
		"seal": func(l *raft.Log) { l.Extensions = []byte{1} },
	} {
		var l raft.Log
		if err := inner.GetLog(1, &l); err != nil {
			t.Fatal(err)
		}
		spoil(&l)
		if err := inner.StoreLog(&l); err != nil {
			t.Fatal(err)
		}
		if err := logs.GetLog(1, &got); !errors.Is(err, ErrTorn) {
			t.Errorf("%s changed: %v", name, err)
		}
		if err := logs.StoreLog(entry); err != nil {
			t.Fatal(err)
		}
	}
	old := &raft.Log{Index: 2, Term: 2, Data: []byte("from before there were checksums")}
	if err := errors.Join(inner.StoreLog(old), logs.GetLog(2, &got)); err != nil {
		t.Error(err)
	}
}

// flaky fails one write.
type flaky struct {
	raft.LogStore
	raft.StableStore
	fail bool
}

func (f *flaky) once() error {
	if f.fail {
		f.fail = false
		return errors.New("input/output error")
	}
	return nil
}

func (f *flaky) StoreLogs([]*raft.Log) error        { return f.once() }
func (f *flaky) Set(_, _ []byte) error              { return f.once() }
func (f *flaky) SetUint64(_ []byte, _ uint64) error { return f.once() }
func (f *flaky) DeleteRange(_, _ uint64) error      { return f.once() }
func (f *flaky) GetUint64(_ []byte) (uint64, error) { return 0, nil }

// TestAFailedWriteIsTheLast: after one error nothing is written any more, also if the
// disk would take it again (reliability.md 4, row 25).
func TestAFailedWriteIsTheLast(t *testing.T) {
	disk := &flaky{}
	var reported []error
	once := &failOnce{limit: 1 << 40, report: func(err error) { reported = append(reported, err) }}
	logs, stable := guardedLog{disk, once}, guardedStable{disk, once, &atomic.Bool{}}
	writes := map[string]func() error{
		"log":    func() error { return logs.StoreLog(&raft.Log{}) },
		"delete": func() error { return logs.DeleteRange(1, 2) },
		"vote":   func() error { return stable.Set([]byte("LastVoteCand"), nil) },
		"number": func() error { return stable.SetUint64([]byte("LastVoteTerm"), 1) },
	}
	for name, write := range writes {
		if err := write(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	disk.fail = true
	if err := logs.StoreLog(&raft.Log{}); !errors.Is(err, ErrStoreFailed) {
		t.Fatalf("got %v", err)
	}
	for name, write := range writes {
		if err := write(); !errors.Is(err, ErrStoreFailed) {
			t.Errorf("%s after a failure: %v", name, err)
		}
	}
	if len(reported) != 1 || !errors.Is(reported[0], ErrStoreFailed) {
		t.Errorf("reported %v", reported)
	}
}
