package privsep

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func policy() Policy {
	return Policy{Base: "tarn", Pools: []Pool{{"tank", ""}, {"fast", "/srv/fast"}}, KeyDir: "/var/lib/tarn-agent/keys"}
}

// What the engine and the agent do passes.
func TestPolicyAllowsTheAgentsWork(t *testing.T) {
	for _, line := range []string{
		"zfs", "zpool", "zfs version", "zpool upgrade -v", "zpool list -Hp -o name,guid,health,size,free", "zpool status -v tank", "zpool sync tank",
		"zpool get -Hp -o name,property,value feature@bookmarks,feature@encryption tank fast",
		"zfs create -o canmount=off -o devices=off -o mountpoint=/srv/fast -o readonly=on -o setuid=off -o sharenfs=off fast/tarn",
		"zfs inherit setuid tank/tarn/a", "zfs inherit tarn:x tank/tarn",
		"zfs create -o canmount=noauto -o refquota=1073741824 -o tarn:share=x tank/tarn/0190a0b0",
		"zfs create -o encryption=aes-256-gcm -o keyformat=raw -o keylocation=file:///var/lib/tarn-agent/keys/k tank/tarn/e",
		"zfs get -Hp -o name,property,value,source -t filesystem -r guid,createtxg,written tank/tarn",
		"zfs list -Hp -r -d 1 -t snapshot,bookmark -o name,guid,createtxg tank/tarn/a tank/tarn/b",
		"zfs set readonly=off tarn:epoch=3 tank/tarn/a", "zfs inherit tarn:sync tank", "zfs inherit mountpoint tank/tarn/a",
		"zfs mount -o ro tank/tarn/a", "zfs mount tank/tarn/a", "zfs unmount -f tank/tarn/a",
		"zfs snapshot tank/tarn/a@x tank/tarn/b@x", "zfs rollback tank/tarn/a@x", "zfs hold tarn.last.1 tank/tarn/a@x", "zfs release tarn:divergent tank/tarn/a@x",
		"zfs holds -Hp tank/tarn/a@x", "zfs holds -H tarn-probe@none", "zfs bookmark tank/tarn/a@x tank/tarn/a#x",
		"zfs clone -o readonly=on tank/tarn/.tarn-divergent/a-3@x tank/tarn/a", "zfs promote tank/tarn/a",
		"zfs rename tank/tarn/a tank/tarn/.tarn-divergent/a-3", "zfs rename tank/tarn/a@x tank/tarn/a@y",
		"zfs destroy tank/tarn/a", "zfs destroy tank/tarn/a@x,y", "zfs destroy -nvp tank/tarn/a@x,y", "zfs destroy tank/tarn/a#x",
		"zfs send -c -L -i tank/tarn/a#x tank/tarn/a@y", "zfs send -nP -w tank/tarn/a@y", "zfs receive -u -s -o canmount=noauto tank/tarn/a@y", "zfs receive -A tank/tarn/a",
		"zfs load-key -L file:///var/lib/tarn-agent/keys/k tank/tarn/e",
		"zfs create -o canmount=off tank/tarn/.staging", "zfs receive -u -s tank/tarn/.staging/a@y", "zfs rename tank/tarn/.staging/a tank/tarn/a",
		"zfs clone -o canmount=noauto tank/tarn/a@x tank/tarn/.divergent/a", "zfs set mountpoint=/srv/fast/a fast/tarn/a", "zfs set mountpoint=none tank/tarn/.divergent/a-3",
		"zfs unmount tank/tarn/.divergent/a-3", "zfs destroy tank/tarn/a/b/c",
	} {
		args := strings.Fields(line)
		if _, err := policy().Check(args[0], args[1:]); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// What nobody needs does not pass, whoever thought of it.
func TestPolicyRefuses(t *testing.T) {
	for _, line := range []string{
		"sh -c id", "/usr/sbin/zfs list tank", "zfs allow x tank/tarn", "zfs share tank/tarn/a", "zfs diff tank/tarn/a@x", "zfs program tank x", "zfs userspace tank/tarn/a",
		"zpool destroy tank", "zpool export tank", "zpool import -a", "zpool create x /dev/sda", "zpool set x=y tank", "zpool status other", "zpool sync other",
		// Other datasets.
		"zfs create tank/other", "zfs create tank/tarnished/a", "zfs create other/tarn/a", "zfs create tank/tarn/../other", "zfs create tank", "zfs set readonly=on tank",
		"zfs destroy tank/tarn", "zfs destroy tank/home", "zfs destroy tank/home@x", "zfs rename tank/home tank/tarn/a", "zfs rename tank/tarn/a tank/home", "zfs rename tank/tarn tank/x",
		"zfs rename tank/tarn/a@x tank/home@x", "zfs mount tank/home", "zfs unmount -a", "zfs mount -a", "zfs snapshot tank/tarn/a@x tank/home@x", "zfs send tank/home@x",
		"zfs send -i tank/home@w tank/tarn/a@x", "zfs clone tank/home@x tank/tarn/a", "zfs clone tank/tarn/a@x tank/home2", "zfs promote tank/home", "zfs hold x tank/home@x",
		"zfs list other", "zfs get all other", "zfs inherit tarn:sync other", "zfs inherit mountpoint tank", "zfs load-key -L file:///var/lib/tarn-agent/keys/k tank/home",
		// What a share's writers have made there, a link to elsewhere, is followed by whoever mounts.
		"zfs create tank/tarn/a/link", "zfs create -o canmount=noauto tank/tarn/a/link", "zfs mount tank/tarn/a/link", "zfs mount tank/tarn/.divergent", "zfs mount tank/tarn/.divergent/a-3", "zfs mount tank/tarn",
		"zfs rename tank/tarn/a tank/tarn/b/link", "zfs rename tank/tarn/a tank/tarn/.divergent", "zfs rename tank/tarn/a tank/tarn/.x/b/c", "zfs rename tank/tarn/a tank/tarn/.x/.y",
		"zfs clone tank/tarn/a@x tank/tarn/b/link", "zfs clone tank/tarn/a@x tank/tarn/.x", "zfs clone tank/tarn/a@x tank/tarn/.x/b", "zfs receive -u tank/tarn/a/link@x", "zfs receive -u tank/tarn/.x@y",
		"zfs create tank/tarn/.staging", "zfs create -o mountpoint=/srv/fast/a/link fast/tarn/b", "zfs clone -o mountpoint=/srv/fast fast/tarn/a@x fast/tarn/b", "zfs receive -u -o mountpoint=/srv/fast/b fast/tarn/a@x",
		"zfs set mountpoint=/srv/fast/a/link fast/tarn/b", "zfs set mountpoint=/srv/fast fast/tarn/b", "zfs set mountpoint=/srv/fast/b fast/tarn/a", "zfs set mountpoint=/srv/fast/.divergent/a fast/tarn/.divergent/a",
		"zfs set mountpoint=/srv/fast/a fast/tarn", "zfs set mountpoint=/tank/tarn/a fast/tarn/a", "zfs set mountpoint= fast/tarn/.divergent/a", "zfs set readonly=on mountpoint=/srv/fast/x fast/tarn/a",
		// What the base has keeps all below it harmless.
		"zfs create -o canmount=off -o mountpoint=/srv/fast -o readonly=on -o sharenfs=off fast/tarn", "zfs create -o setuid=off -o sharenfs=off fast/tarn", "zfs create tank/tarn",
		"zfs inherit setuid tank/tarn", "zfs inherit devices tank/tarn", "zfs inherit sharenfs tank/tarn", "zfs inherit canmount tank/tarn", "zfs inherit setuid tank", "zfs inherit setuid",
		// Flags.
		"zfs destroy -r tank/tarn/a", "zfs destroy -R tank/tarn/a@x", "zfs destroy -f tank/tarn/a", "zfs rollback -r tank/tarn/a@x", "zfs receive -F -u tank/tarn/a@x", "zfs receive tank/tarn/a@x",
		"zfs receive -u -d tank/tarn/a", "zfs receive -u tank/tarn@x", "zfs send -R tank/tarn/a@x", "zfs send -p tank/tarn/a@x", "zfs mount -O tank/tarn/a", "zfs mount -o suid tank/tarn/a", "zfs mount -o ro,suid tank/tarn/a",
		"zfs snapshot -r tank/tarn/a@x", "zfs create -p tank/tarn/a", "zfs create -V 1G tank/tarn/v", "zfs create tank/tarn/a -o setuid=on", "zfs set -u readonly=on tank/tarn/a",
		"zfs send -t 1-0-0-00", "zfs send -t", "zfs list -t", "zfs get -c all tank/tarn",
		// Properties.
		"zfs set mountpoint=/etc tank/tarn/a", "zfs set mountpoint=/srv/fast/../../etc tank/tarn/a", "zfs set mountpoint=legacy tank/tarn/a", "zfs set mountpoint=/srv/fastest tank/tarn/a",
		"zfs set setuid=on tank/tarn/a", "zfs set devices=on tank/tarn/a", "zfs set sharenfs=on tank/tarn/a", "zfs set sharenfs=rw=* tank/tarn/a", "zfs set canmount=on tank/tarn/a",
		"zfs set keylocation=file:///etc/shadow tank/tarn/a", "zfs set keylocation=https://x/y tank/tarn/a", "zfs set com.sun:x=y tank/tarn/a", "zfs set zoned=on tank/tarn/a", "zfs set dedup=on tank/tarn/a",
		"zfs create -o mountpoint=/root tank/tarn/a", "zfs receive -u -o mountpoint=/root tank/tarn/a@x", "zfs set readonly=on", "zfs set tank/tarn/a",
		"zfs load-key -L file:///etc/shadow tank/tarn/a", "zfs load-key -L file:///var/lib/tarn-agent/keys/../../../etc/shadow tank/tarn/a", "zfs load-key tank/tarn/a", "zfs load-key -a",
	} {
		args := strings.Fields(line)
		if _, err := policy().Check(args[0], args[1:]); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, dir := range []string{"/", "/tank", "/tank/tarn", "/srv/fast", "/srv/fast/", "/srv/fast/../x", "srv/fast/a", "/tank/tarn/a/../..", "/srv/fast/a\n"} {
		if policy().exportable(dir) == nil {
			t.Errorf("%q may be exported", dir)
		}
	}
	for _, dir := range []string{"/tank/tarn/a", "/srv/fast/a"} {
		if err := policy().exportable(dir); err != nil {
			t.Error(err)
		}
	}
}

// Whatever comes over the socket neither breaks the helper nor gets past the table: what
// passes names nothing but what is configured.
func FuzzDecodeCall(f *testing.F) {
	f.Add([]byte(`{"verb":"zfs","args":["set","readonly=on","tank/tarn/a"]}`))
	f.Add([]byte(`{"verb":"zfs","args":["destroy","-nvp","tank/tarn/a@x,y"]}`))
	f.Add([]byte(`{"verb":"zfs","args":["send","-i","tank/tarn/a#b","tank/tarn/a@x"]}`))
	f.Add([]byte(`{"verb":"zpool","args":["status","-v","tank"]}`))
	f.Add([]byte(`{"verb":"apply","args":["ro","/srv/fast/a"],"exports":"AA=="}`))
	f.Add([]byte(`{"verb":"zfs","args":["set","mountpoint=/srv/fast/a","fast/tarn/a"]}`))
	f.Add([]byte(`{"verb":"zfs","args":["rename","tank/tarn/a","tank/tarn/.x/a"]}`))
	f.Add([]byte(`{"kill":true}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCall(data)
		if err != nil {
			return
		}
		changes, err := policy().Check(c.Verb, c.Args)
		if err != nil || !changes {
			return
		}
		last := c.Args[len(c.Args)-1]
		if slices.Equal(c.Args, []string{"inherit", "tarn:sync", last}) {
			return
		}
		dataset := last
		if i := strings.IndexAny(last, "@#"); i >= 0 {
			dataset = last[:i]
		}
		inside := dataset == "tank/tarn" || dataset == "fast/tarn" || strings.HasPrefix(dataset, "tank/tarn/") || strings.HasPrefix(dataset, "fast/tarn/")
		if !inside || strings.Contains(dataset, "..") {
			t.Errorf("%q passes", c.Args)
		}
		if depth := strings.Count(dataset, "/"); c.Args[0] == "mount" && depth != 2 || c.Args[0] == "rename" && depth > 3 || c.Args[0] == "receive" && c.Args[1] == "-u" && depth > 3 {
			t.Errorf("%q passes", c.Args)
		}
		for _, a := range c.Args[1:] {
			if dir, ok := strings.CutPrefix(a, "mountpoint=/"); ok && "/"+dir != policy().place(dataset) {
				t.Errorf("%q passes", c.Args)
			}
			if strings.HasPrefix(a, "-") && strings.ContainsAny(a, "rRFfda") && a != "-f" {
				t.Errorf("%q passes", c.Args)
			}
		}
	})
}
