package zfstest

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sync/errgroup"

	"tarn/zfs"
)

func concurrencyTests() map[string]func(*testing.T, *suite) {
	return map[string]func(*testing.T, *suite){
		"chains":    testChains,
		"same":      testSameTarget,
		"namespace": testNamespace,
	}
}

// testChains replicates several datasets at once, sharing content, while others
// come and go.
func testChains(t *testing.T, s *suite) {
	const chains, rounds = 4, 4
	shared := random(300 << 10)
	var g errgroup.Group
	dirs := make([]string, chains)
	for i := range chains {
		ds, dir := s.create(t, fmt.Sprintf("chain%d", i))
		dirs[i] = dir
		g.Go(func() error { return s.chain(t, ds, dir, fmt.Sprintf("%s/chain%d", s.Target, i), shared, rounds) })
	}
	ok(t, g.Wait())
	for i, dir := range dirs {
		to := fmt.Sprintf("%s/chain%d", s.Target, i)
		ok(t, s.Host.Mount(t.Context(), to))
		sameTree(t, readTree(t, dir), readTree(t, s.mountpoint(t, to)))
	}
}

func (s *suite) chain(t *testing.T, ds, dir, to string, shared []byte, rounds int) error {
	ctx, from := t.Context(), ""
	for r := range rounds {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, r), append(random(50<<10), shared...), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(dir+"/shared", shared[:len(shared)-r], 0o644); err != nil {
			return err
		}
		snap := fmt.Sprintf("r%d", r)
		if err := s.Host.Snapshot(ctx, ds+"@"+snap); err != nil {
			return err
		}
		if err := s.tryTransfer(ctx, zfs.SendRequest{Dataset: ds, From: from, To: snap}, zfs.ReceiveRequest{Target: to + "@" + snap}); err != nil {
			return err
		}
		if r > 1 { // the bases are free to go: both sides
			old := fmt.Sprintf("r%d", r-2)
			if err := s.Host.DestroySnapshots(ctx, ds, old); err != nil {
				return err
			}
			if err := s.Host.DestroySnapshots(ctx, to, old); err != nil {
				return err
			}
		}
		from = "@" + snap
	}
	return nil
}

// testSameTarget: of several receives into one dataset one succeeds, the others
// are refused, and nothing is torn.
func testSameTarget(t *testing.T, s *suite) {
	ds, dir := s.create(t, "one")
	writeFile(t, dir+"/f", random(2<<20))
	s.snap(t, ds+"@1")
	to := s.Target + "/one"
	results := make([]error, 4)
	var g errgroup.Group
	for i := range results {
		g.Go(func() error {
			results[i] = s.tryTransfer(t.Context(), zfs.SendRequest{Dataset: ds, To: "1"}, zfs.ReceiveRequest{Target: to + "@1"})
			return nil
		})
	}
	ok(t, g.Wait())
	won := 0
	for _, err := range results {
		if err == nil {
			won++
			continue
		}
		fails(t, err, zfs.ErrBusy, zfs.ErrExists)
	}
	if won != 1 {
		t.Errorf("%d receives succeeded", won)
	}
	ok(t, s.Host.Mount(t.Context(), to))
	sameTree(t, readTree(t, dir), readTree(t, s.mountpoint(t, to)))
}

func testNamespace(t *testing.T, s *suite) {
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			name := fmt.Sprintf("%s/ns%d", s.Source, i)
			for range 3 {
				if err := s.Host.Create(t.Context(), name, map[string]string{zfs.PropCanMount: "on"}, false); err != nil {
					return err
				}
				if _, err := s.Host.Datasets(t.Context(), s.Source); err != nil {
					return err
				}
				if err := s.Host.Rename(t.Context(), name, name+"x"); err != nil {
					return err
				}
				if err := s.Host.Destroy(t.Context(), name+"x"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	ok(t, g.Wait())
	list, err := s.Host.Datasets(t.Context(), s.Source)
	ok(t, err)
	if len(list) != 1 {
		t.Errorf("left over: %+v", list)
	}
}
