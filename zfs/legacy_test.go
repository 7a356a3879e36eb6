package zfs_test

import (
	"testing"

	"tarn/zfs"
)

// TestLegacyUnmount: what OpenZFS says of a dataset with mountpoint=legacy is the same
// whether it is mounted or not. One that is not is at rest.
func TestLegacyUnmount(t *testing.T) {
	for mounted, want := range map[string]error{"no": nil, "yes": zfs.ErrInvalid} {
		cfg, _ := fake(t, `case "$1" in
unmount) printf "cannot unmount 'p/x': legacy mountpoint\nuse umount(8) to unmount this filesystem\n" >&2; exit 1;;
get) printf 'p/x\tguid\t7\t-\np/x\tmounted\t`+mounted+`\t-\np/x\tmountpoint\tlegacy\tlocal\n';;
esac`)
		err := openWith(t, cfg).Unmount(t.Context(), "p/x", false)
		if want == nil {
			ok(t, err)
		} else {
			fails(t, err, want)
		}
	}
}
