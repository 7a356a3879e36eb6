package export

import "testing"

func TestWhatIsMountedWhere(t *testing.T) {
	const text = `50 21 0:50 / /early rw - zfs tank/tarn/r6 rw
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 21 0:40 / /tank rw - zfs tank rw,xattr
41 40 0:41 / /tank/a\040b rw - zfs tank/tarn/r1 rw,xattr
42 40 0:42 / /tank/c rw shared:7 master:1 - fuse.zfs tank/tarn/r2 rw
43 40 0:43 / /tank/d rw - zfs tank/tarn/r3 rw
44 43 0:44 / /tank/d rw - zfs tank/tarn/r4 rw
45 21 0:45 / /hidden/e rw - zfs tank/tarn/r5 rw
46 21 0:46 / /hidden rw - tmpfs tmpfs rw
not a line of it
`
	for path, want := range map[string]string{
		"/tank": "tank", "/tank/a b": "tank/tarn/r1", "/tank/c": "tank/tarn/r2", "/tank/d": "tank/tarn/r4",
		"/hidden": "tmpfs", "/early": "tank/tarn/r6", "/": "/dev/sda1", "/hidden/e": "", "/tank/c/below": "", "/tank/cc": "", "/tan": "", "/nowhere": "",
	} {
		if got, ok := sourceAt(text, path); got != want || ok != (want != "") {
			t.Errorf("%s: %q %v, want %q", path, got, ok, want)
		}
	}
}

func FuzzSourceAt(f *testing.F) {
	f.Add("41 40 0:41 / /tank/a\\040b rw - zfs tank/tarn/r1 rw\n", "/tank/a b")
	f.Fuzz(func(t *testing.T, text, path string) {
		if source, ok := sourceAt(text, path); ok && path == "" || !ok && source != "" {
			t.Fatal("something is where nothing is")
		}
	})
}
