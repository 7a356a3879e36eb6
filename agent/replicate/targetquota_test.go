package replicate

import (
	"strconv"
	"strings"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// TestQuotaOnTheTargetOnZFS: an administrator limits what a copy may take. A limit on the
// copy's own dataset is none of the share's and goes; one above it is his, and stands in
// the way until he lifts it. Either way the copy keeps what it has.
func TestQuotaOnTheTargetOnZFS(t *testing.T) {
	onReal(t, func(t *testing.T, on maker) {
		const mib = 1 << 20
		c, a, b := pairOn(t, on)
		a.write(random(mib))
		c.until("in sync", inSync(a, b))
		limit := func(prop, dataset string) {
			t.Helper()
			d, err := b.fs.Dataset(t.Context(), dataset)
			c.must(err)
			c.must(realzfs.Zfs("set", prop+"="+strconv.FormatInt(d.Used+mib, 10), dataset))
		}
		for _, prop := range []string{zfs.PropQuota, zfs.PropRefQuota} {
			limit(prop, b.dataset())
			a.write(random(4 * mib))
			c.until("in sync in spite of "+prop, inSync(a, b))
		}
		limit(zfs.PropQuota, b.root())
		old, head := readAll(t, b), b.head()
		a.write(random(4 * mib))
		c.until("the limit is told", func() bool {
			e := b.report().GetError()
			return e.GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE && e.GetRetrying() &&
				strings.Contains(e.GetMessage(), "zfs set quota=none "+b.root()+"`")
		})
		if readAll(t, b) != old || b.head() != head || len(b.report().GetDivergentCopies()) != 0 {
			t.Error("the copy changed though its receive failed")
		}
		c.must(realzfs.Zfs("set", zfs.PropQuota+"=none", b.root()))
		c.until("in sync by itself", inSync(a, b))
		c.until("nothing is told any more", func() bool { return b.report().GetError() == nil })
		a.clean()
		b.clean()
	})
}
