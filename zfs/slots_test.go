package zfs_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// TestManyStreamsAtOnce: zfs-fuse has eight threads for everything, and receives that
// have them all would wait for their sends for ever.
func TestManyStreamsAtOnce(t *testing.T) {
	src, dst := realzfs.NewPool(t, 512), realzfs.NewPool(t, 512)
	// Two hosts, as two agents of one machine are.
	from, to := open(t, src), open(t, dst)
	var g errgroup.Group
	for i := range 12 {
		ds := fmt.Sprintf("%s/%d", src.Name, i)
		if err := errors.Join(realzfs.Zfs("create", ds), realzfs.Zfs("snapshot", ds+"@1")); err != nil {
			t.Fatal(err)
		}
		g.Go(func() error {
			s, err := from.Send(t.Context(), zfs.SendRequest{Dataset: ds, To: "1"})
			if err != nil {
				return err
			}
			err = to.Receive(t.Context(), zfs.ReceiveRequest{Target: fmt.Sprintf("%s/%d@1", dst.Name, i)}, s)
			return errors.Join(err, s.Close())
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestListingsAreShared: many who ask at once cost few processes.
func TestListingsAreShared(t *testing.T) {
	pool := realzfs.NewPool(t, 256)
	var processes atomic.Int64
	h := openWith(t, zfs.Config{Pools: []string{pool.Name}, Observe: func(zfs.Call) { processes.Add(1) }})
	var names []string
	for i := range 8 {
		names = append(names, fmt.Sprintf("%s/%d", pool.Name, i))
		if err := errors.Join(realzfs.Zfs("create", names[i]), realzfs.Zfs("snapshot", fmt.Sprintf("%s@%d", names[i], i))); err != nil {
			t.Fatal(err)
		}
	}
	begun := processes.Load()
	var g errgroup.Group
	for range 10 {
		for i, name := range names {
			g.Go(func() error {
				list, err := h.Versions(t.Context(), name)
				if err == nil && (len(list) != 1 || list[0].Name != fmt.Sprint(i)) {
					err = fmt.Errorf("%s has %+v", name, list)
				}
				return err
			})
		}
	}
	g.Go(func() error { // who asks for what is not there spoils it for nobody
		if _, err := h.Versions(t.Context(), pool.Name+"/none"); !errors.Is(err, zfs.ErrNotExist) {
			return fmt.Errorf("a missing filesystem: %v", err)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := processes.Load() - begun; n > 20 {
		t.Errorf("%d processes for 81 questions", n)
	}
}
