package consensus

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestServerIDIsMintedOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	id, err := ServerID(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ServerID(dir); err != nil || again != id {
		t.Fatalf("got %s, %v after %s", again, err, id)
	}
	if err := checkDir(dir, "another"); !errors.Is(err, ErrConflict) {
		t.Fatalf("foreign id: %v", err)
	}
}

// filled returns the directory of a stopped member that holds data.
func filled(t *testing.T) (string, string) {
	t.Helper()
	c := &cluster{t: t}
	m := c.add(func(cfg *Config) { cfg.BootstrapExpect = 1 })
	for range 50 {
		c.write("some data that fills more than the first pages of the file")
	}
	if err := m.stop(); err != nil {
		t.Fatal(err)
	}
	return m.dir, m.node.ID()
}

func TestDamagedDirectoriesAreRefused(t *testing.T) {
	source, id := filled(t)
	for name, damage := range map[string]func(dir string) error{
		"log lost":      func(dir string) error { return os.Remove(filepath.Join(dir, dbFile)) },
		"log emptied":   func(dir string) error { return os.Truncate(filepath.Join(dir, dbFile), 0) },
		"log cut short": func(dir string) error { return os.Truncate(filepath.Join(dir, dbFile), 3*4096) },
		"log cut mid-page": func(dir string) error {
			return os.Truncate(filepath.Join(dir, dbFile), 5*4096+100)
		},
		"both metas zeroed": func(dir string) error { return zero(dir, 0, 2*4096) },
		"pages zeroed":      func(dir string) error { return zero(dir, 2*4096, 6*4096) },
		"id lost":           func(dir string) error { return os.Remove(filepath.Join(dir, idFile)) },
		"id garbled":        func(dir string) error { return os.WriteFile(filepath.Join(dir, idFile), []byte("x"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
				t.Fatal(err)
			}
			if err := checkDir(dir, id); err != nil {
				t.Fatalf("undamaged: %v", err)
			}
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if err := checkDir(dir, id); !errors.Is(err, ErrTorn) {
				t.Fatalf("got %v, want ErrTorn", err)
			}
		})
	}
}

func zero(dir string, from, to int64) error {
	f, err := os.OpenFile(filepath.Join(dir, dbFile), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, to-from), from)
	return errors.Join(err, f.Close())
}

func TestSecondProcessIsRefused(t *testing.T) {
	c := &cluster{t: t}
	m := c.add(func(cfg *Config) { cfg.BootstrapExpect = 1 })
	c.leader()
	err := checkDir(m.dir, m.node.ID())
	if err == nil || errors.Is(err, ErrTorn) {
		t.Fatalf("directory in use: %v", err)
	}
}

// hangingLog blocks in StoreLogs until released.
type hangingLog struct {
	raft.LogStore
	release chan struct{}
}

func (h hangingLog) StoreLogs([]*raft.Log) error {
	<-h.release
	return nil
}

func TestStuckWriteIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan time.Time, 1)
		release := make(chan struct{})
		began := time.Now()
		w := guardedLog{hangingLog{release: release}, &failOnce{limit: 10 * time.Second, report: func(err error) {
			if errors.Is(err, ErrStoreStuck) {
				stuck <- time.Now()
			}
		}}}
		done := make(chan error)
		go func() { done <- w.StoreLog(&raft.Log{}) }()
		if at := <-stuck; at.Sub(began) != 10*time.Second {
			t.Fatalf("reported after %s", at.Sub(began))
		}
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := w.StoreLog(&raft.Log{}); err != nil { // quick: not reported
			t.Fatal(err)
		}
		synctest.Wait()
		if len(stuck) != 0 {
			t.Fatal("a quick write was reported")
		}
	})
}
