package zfs_test

import (
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest"
)

// TestTokensSayOneThing: what is checked has to be what zfs(8) reads, which may take the first
// of two equal names and ends one at a NUL byte.
func TestTokensSayOneThing(t *testing.T) {
	pair := func(name string, value any) zfstest.TokenPair { return zfstest.TokenPair{Name: name, Value: value} }
	good := []zfstest.TokenPair{pair("toguid", uint64(7)), pair("toname", "p/tarn/a@x")}
	info, err := zfs.ParseToken(zfstest.ResumeToken(good...))
	if err != nil || info.ToGUID != 7 || info.ToName != "p/tarn/a@x" {
		t.Fatalf("%+v, %v", info, err)
	}
	for _, more := range []zfstest.TokenPair{pair("toname", "p/tarn/a@x"), pair("toguid", uint64(8)), pair("toname\x00", "p/home@x"), pair("toguid", "8")} {
		if info, err := zfs.ParseToken(zfstest.ResumeToken(append(good, more)...)); err == nil {
			t.Errorf("%+v: %+v", more, info)
		}
	}
}
