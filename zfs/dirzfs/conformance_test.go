package dirzfs_test

import (
	"testing"

	"tarn/zfs/dirzfs"
	"tarn/zfs/zfstest"
)

func TestConformance(t *testing.T) {
	zfstest.Conformance(t, func(t *testing.T) zfstest.Env {
		pools := []dirzfs.Pool{{Name: "src", Dir: t.TempDir()}, {Name: "dst", Dir: t.TempDir()}}
		h := open(t, pools...)
		ok(t, h.Create(t.Context(), "src/work", nil, true))
		ok(t, h.Create(t.Context(), "dst/work", nil, true))
		return zfstest.Env{Host: h, Source: "src/work", Target: "dst/work", Reopen: func(t *testing.T) zfstest.Host {
			t.Helper()
			ok(t, h.Close())
			h = open(t, pools...)
			return h
		}}
	})
}
