package zfs

import "testing"

// TestMountsOfOthers: what a user mounts with fusermount(1) and calls a dataset is none.
func TestMountsOfOthers(t *testing.T) {
	list := parseMounts(`113 43 0:40 / /home/u/m rw,nosuid,nodev,relatime - fuse.zfs tank/tarn/x rw,user_id=65534,group_id=65534
114 43 0:41 / /home/u/n rw,nosuid,nodev,relatime - fuse.zfs tank/tarn/x rw
115 43 0:42 / /tank/tarn/x ro,nosuid,relatime shared:3 - fuse.zfs tank/tarn/x rw,user_id=0,group_id=0,allow_other
116 43 0:43 / /tank/tarn/y rw,noatime - zfs tank/tarn/y rw,xattr,noacl
`)
	if len(list) != 2 || list[0].dir != "/tank/tarn/x" || !list[0].fuse || list[0].options != "ro,nosuid,relatime" || list[1].dir != "/tank/tarn/y" {
		t.Errorf("mounts are %+v", list)
	}
}
