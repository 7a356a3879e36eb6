package privsep

import (
	"os"
	"strings"
	"testing"

	"tarn/zfs/zfstest/realzfs"
)

// TestIncrementsGoNowhereElse: zfs-fuse puts an increment for a dataset that is not there
// into whatever dataset of the pool has its base.
func TestIncrementsGoNowhereElse(t *testing.T) {
	pool, place := poolWithSecret(t)
	zfsOK(t, "snapshot", pool.Name+"/secret@2")
	data := stream(t, "-i", pool.Name+"/secret@1", pool.Name+"/secret@2")
	zfsOK(t, "destroy", pool.Name+"/secret@2")
	c := serve(t, Config{Policy: Policy{Base: "tarn", Pools: []Pool{{pool.Name, place}}}, UID: uint32(os.Getuid()), Logger: testLog(t)})
	said, err := receiveThrough(t, c, pool.Name+"/tarn/none@9", data)
	if err == nil || realzfs.Kernel() == strings.Contains(said, "refused by the helper") {
		t.Errorf("ended with %v: %s", err, said)
	}
	if realzfs.Zfs("list", pool.Name+"/secret@9") == nil {
		t.Error("it went into a dataset that is not below the base")
	}
}
