package replicate

import (
	"context"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"tarn/agent/stream/memzfs"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// immeasurable is a storage that can be made to fail at measuring files, as where there is
// no space to bring them.
type immeasurable struct {
	*memzfs.Host
	on atomic.Bool
}

func (i *immeasurable) Dataset(ctx context.Context, name string) (zfs.Dataset, error) {
	d, err := i.Host.Dataset(ctx, name)
	if err == nil && i.on.Load() && local(d, markReplica) != "" {
		return zfs.Dataset{}, &zfs.Error{Op: "get", Object: name, Class: zfs.ErrNoSpace}
	}
	return d, err
}

func (i *immeasurable) Datasets(ctx context.Context, root string) ([]zfs.Dataset, error) {
	list, err := i.Host.Datasets(ctx, root)
	for n := range list {
		if i.on.Load() && local(list[n], markReplica) != "" {
			list[n].Written = -1
		}
	}
	return list, err
}

// TestFilesThatCannotBeMeasured: an owner goes on serving under new rules, a copy goes on
// following, and can be removed; but nobody is taken for demoted.
func TestFilesThatCannotBeMeasured(t *testing.T) {
	c, a, b := pairOn(t, func(_ *testing.T, i int) testStorage { return &immeasurable{Host: memzfs.New(uint64(i+1), testPool)} })
	a.write("one\n")
	c.until("in sync", inSync(a, b))
	for _, h := range c.hosts {
		h.kill()
		h.fs.(*immeasurable).on.Store(true)
		h.start()
	}
	as := a.active(1)
	as.Exports = &tarnv1.Exports{Revision: 2}
	a.assign(as)
	c.until("writable, under the new rules", func() bool {
		return a.report().GetWritable() && a.report().GetAppliedAccessRevision() == 2
	})
	a.write("two\n")
	c.until("in sync again", inSync(a, b))
	b.assign(b.assignment(tarnv1.Role_ROLE_DELETING, 1))
	c.until("removed", func() bool { return b.report().GetGone() })
	demote := proto.CloneOf(a.assignment(tarnv1.Role_ROLE_FENCED, 1))
	demote.OpId = "op"
	a.assign(demote)
	c.until("not demoted", func() bool {
		return a.report().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE && a.report().GetDemoteAck() == nil
	})
	a.fs.(*immeasurable).on.Store(false)
	c.until("demoted", func() bool { return a.report().GetDemoteAck().GetOpId() == "op" })
}
