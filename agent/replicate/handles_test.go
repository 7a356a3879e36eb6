package replicate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// TestOpenHandleHoldsUpDemotionBehindAFence: the dead-man takes the path away at the
// lease's end, but who has a file open goes on writing. What is written like that
// must be in the final snapshot, or the planned promotion has lost it.
func TestOpenHandleHoldsUpDemotionBehindAFence(t *testing.T) {
	c, a, b := pairOn(t, onDirectory)
	c.until("in sync", inSync(a, b))
	a.write("before\n")
	ds, err := a.fs.Dataset(t.Context(), a.dataset())
	c.must(err)
	f, err := os.OpenFile(filepath.Join(ds.Mountpoint, testFile), os.O_APPEND|os.O_WRONLY, 0)
	c.must(err)
	fenced := a.assignment(tarnv1.Role_ROLE_FENCED, 1)
	fenced.OpId, fenced.Peers = "op", a.peers()
	a.assign(fenced)
	a.lease.set(0)
	busy := func() bool {
		return a.report().GetError().GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_BUSY
	}
	c.until("busy is reported", busy)
	a.kill()
	a.fence(a.dataset())
	a.start()
	c.until("busy or acknowledged behind the fence", func() bool { return busy() || a.report().GetDemoteAck() != nil })
	if a.report().GetDemoteAck() != nil {
		t.Fatal("acknowledged while a handle is open")
	}
	_, err = f.WriteString("after the fence\n")
	c.must(errors.Join(err, f.Close()))
	c.until("acknowledged once closed", func() bool { return a.report().GetDemoteAck() != nil })
	want := b.secondary(1, a)
	want.FinalGuid = a.report().GetDemoteAck().GetHeadGuid()
	b.assign(want)
	c.until("final snapshot arrived", func() bool { return b.report().GetHeadGuid() == want.GetFinalGuid() })
	if text, err := b.fs.Read(b.dataset()); err != nil || text != "before\nafter the fence\n" {
		t.Errorf("the copy has %q, %v", text, err)
	}
}

// TestFormerOwnerIsCutOff: when another owner has the share, nobody goes on writing
// to the former one through a handle, and what was written is kept.
func TestFormerOwnerIsCutOff(t *testing.T) {
	c, a, b := pairOn(t, inMemory)
	c.until("in sync", inSync(a, b))
	a.kill()
	a.fence(a.dataset())
	a.mem.SetBusy(a.dataset(), true)
	b.lease.set(2)
	b.assign(b.active(2))
	a.lease.set(0)
	a.assign(a.secondary(2, b))
	a.start()
	c.until("the former owner follows", func() bool { return inSync(b, a)() && b.report().GetWritable() })
	if err := a.fs.Unmount(t.Context(), a.dataset(), false); errors.Is(err, zfs.ErrBusy) {
		t.Error("a handle of the former epoch is still open")
	}
}
