package zfs_test

import (
	"errors"
	"fmt"
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
