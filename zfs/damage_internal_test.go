package zfs

import (
	"strings"
	"testing"
)

const statusText = `  pool: tank
 state: ONLINE
config:

	NAME        STATE     READ WRITE CKSUM
	tank        ONLINE       0     0     0

errors: Permanent errors have been detected in the following files:

        /tank/tarn/r1/dir/a file
        tank/tarn/r2:/dir/file
        tank/tarn/r2@tarn.x.1:/dir/file
        tank/tarn/r3:<0x0>
        <metadata>:<0x34>
        <0x1b>:<0x2>
`

func TestDamageIsRead(t *testing.T) {
	mounts := []Dataset{
		{Name: "tank/tarn", Mountpoint: "/tank/tarn", Mounted: true},
		{Name: "tank/tarn/r1", Mountpoint: "/tank/tarn/r1", Mounted: true},
	}
	want := []Damage{
		{"tank/tarn/r1", "", "/dir/a file"}, {"tank/tarn/r2", "", "/dir/file"}, {"tank/tarn/r2", "tarn.x.1", "/dir/file"},
		{"tank/tarn/r3", "", "<0x0>"}, {"", "", "<metadata>:<0x34>"}, {"", "", "<0x1b>:<0x2>"},
	}
	places := damagedPlaces(statusText)
	if len(places) != len(want) {
		t.Fatalf("%d places: %q", len(places), places)
	}
	for i, p := range places {
		if got := damageOf(p, mounts); got != want[i] {
			t.Errorf("%q is read as %+v", p, got)
		}
	}
	if got := damagedPlaces("errors: No known data errors\n"); got != nil {
		t.Errorf("a whole pool has %q", got)
	}
}

func FuzzDamage(f *testing.F) {
	f.Add(statusText)
	f.Add("following files:\n/:")
	f.Fuzz(func(t *testing.T, out string) {
		for _, p := range damagedPlaces(out) {
			d := damageOf(p, []Dataset{{Name: "p/d", Mountpoint: "/", Mounted: true}, {Name: "p", Mountpoint: "/p", Mounted: true}})
			if d.Dataset != "" && ValidateDataset(d.Dataset) != nil || strings.Contains(d.Snapshot, "\n") {
				t.Errorf("%q became %+v", p, d)
			}
		}
	})
}
