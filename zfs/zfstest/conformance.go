package zfstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"tarn/zfs"
)

// Env is an engine under test.
type Env struct {
	Host Host
	// Source and Target are datasets to work below. They may be in one pool.
	Source, Target string
	// Reopen ends the engine's process state and starts it anew on the same pools;
	// nil for engines that have none.
	Reopen func(t *testing.T) Host
	// Slow engines start a process for each call: random tests try less.
	Slow bool
}

// suite is one run.
type suite struct {
	Env
	caps zfs.Capabilities
}

// Conformance runs the whole suite. newEnv is called for each test and must give
// pools without datasets of earlier tests below Source and Target. What the
// engine's capabilities exclude is skipped with the reason printed.
func Conformance(t *testing.T, newEnv func(t *testing.T) Env) {
	t.Helper()
	groups := []struct {
		name  string
		tests map[string]func(*testing.T, *suite)
	}{
		{"datasets", datasetTests()},
		{"mounts", mountTests()},
		{"snapshots", snapshotTests()},
		{"clones", cloneTests()},
		{"streams", streamTests()},
		{"resume", resumeTests()},
		{"trees", treeTests()},
		{"encryption", encryptionTests()},
		{"concurrency", concurrencyTests()},
	}
	var counts tally
	var caps zfs.Capabilities
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for name, fn := range g.tests {
				t.Run(name, func(t *testing.T) {
					counts.count(t)
					s := &suite{Env: newEnv(t)}
					var err error
					s.caps, err = s.Host.Capabilities(t.Context())
					ok(t, err)
					caps = s.caps
					fn(t, s)
				})
			}
		})
	}
	counts.record(t, caps)
}

// need skips a test whose capability is missing, and says so.
func (s *suite) need(t *testing.T, have bool, what string) {
	t.Helper()
	if !have {
		t.Skipf("%s %s has no %s", s.caps.Engine, s.caps.Version, what)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fails checks the class of an error.
func fails(t *testing.T, err error, classes ...error) {
	t.Helper()
	for _, c := range classes {
		if errors.Is(err, c) {
			var e *zfs.Error
			if !errors.As(err, &e) {
				t.Fatalf("%v is a %T, not a *zfs.Error", err, err)
			}
			return
		}
	}
	t.Fatalf("got %v, want one of %v", err, classes)
}

// create makes a mounted filesystem below Source.
func (s *suite) create(t *testing.T, name string) (dataset, mountpoint string) {
	t.Helper()
	full := s.Source + "/" + name
	ok(t, s.Host.Create(t.Context(), full, map[string]string{zfs.PropCanMount: "on"}, false))
	return full, s.mountpoint(t, full)
}

func (s *suite) mountpoint(t *testing.T, dataset string) string {
	t.Helper()
	d := s.get(t, dataset)
	if !d.Mounted || d.Mountpoint == "" {
		t.Fatalf("%s is not mounted: %+v", dataset, d)
	}
	return d.Mountpoint
}

func (s *suite) get(t *testing.T, dataset string) zfs.Dataset {
	t.Helper()
	d, err := s.Host.Dataset(t.Context(), dataset)
	ok(t, err)
	return d
}

// written is what has changed since the newest snapshot, by now.
func (s *suite) written(t *testing.T, dataset string) int64 {
	t.Helper()
	pool, _, _ := strings.Cut(dataset, "/")
	ok(t, s.Host.Sync(t.Context(), pool))
	return s.get(t, dataset).Written
}

func (s *suite) snap(t *testing.T, names ...string) {
	t.Helper()
	ok(t, s.Host.Snapshot(t.Context(), names...))
}

// version finds dataset@name or dataset#name.
func (s *suite) version(t *testing.T, full string) zfs.Version {
	t.Helper()
	v, found := s.lookUp(t, full)
	if !found {
		t.Fatalf("no %s", full)
	}
	return v
}

func (s *suite) lookUp(t *testing.T, full string) (zfs.Version, bool) {
	t.Helper()
	for i := range full {
		if full[i] != '@' && full[i] != '#' {
			continue
		}
		list, err := s.Host.Versions(t.Context(), full[:i])
		ok(t, err)
		for _, v := range list {
			if v.FullName() == full {
				return v, true
			}
		}
	}
	return zfs.Version{}, false
}

// transfer sends and receives, and verifies that the GUID arrived.
func (s *suite) transfer(t *testing.T, dataset, from, to, target string) {
	t.Helper()
	ok(t, s.tryTransfer(t.Context(), zfs.SendRequest{Dataset: dataset, From: from, To: to}, zfs.ReceiveRequest{Target: target}))
	if a, b := s.version(t, dataset+"@"+to), s.version(t, target); a.GUID != b.GUID {
		t.Fatalf("%s has GUID %v, %s has %v", a.FullName(), a.GUID, target, b.GUID)
	}
}

func (s *suite) tryTransfer(ctx context.Context, from zfs.SendRequest, to zfs.ReceiveRequest) error {
	stream, err := s.Host.Send(ctx, from)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	err = s.Host.Receive(ctx, to, stream)
	return errors.Join(err, stream.Close())
}
