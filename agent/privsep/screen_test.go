package privsep

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest/realzfs"
)

// stream is what zfs send writes.
func stream(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("zfs", append([]string{"send"}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// receiveThrough has the helper receive a stream, as an agent does that was taken over.
func receiveThrough(t *testing.T, c Client, target string, data []byte) (text string, err error) {
	t.Helper()
	in, feed, err1 := os.Pipe()
	out, outW, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	l, err := c.Launch("zfs", []string{"receive", "-u", target}, in, outW, outW)
	_, _ = in.Close(), outW.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(feed, bytes.NewReader(data)); _ = feed.Close() }()
	said, _ := io.ReadAll(out)
	return string(said), l.Wait()
}

// poolWithSecret has tarn's base at place, and a dataset with a snapshot that is none of
// tarn's business.
func poolWithSecret(t *testing.T) (pool realzfs.Pool, place string) {
	t.Helper()
	pool = realzfs.NewPool(t, 512)
	place = filepath.Join(pool.Dir, "mnt")
	zfsOK(t, "create", "-o", "mountpoint="+place, pool.Name+"/tarn")
	zfsOK(t, "create", "-o", "mountpoint="+filepath.Join(pool.Dir, "etc"), pool.Name+"/secret")
	zfsOK(t, "snapshot", pool.Name+"/secret@1")
	return pool, place
}

func zfsOK(t *testing.T, args ...string) {
	t.Helper()
	if err := realzfs.Zfs(args...); err != nil {
		t.Fatal(err)
	}
}

// TestStreamsDoWhatTheyMayOnly: whatever the agent hands over, no stream gives a dataset
// properties, nor makes data of the same pool that are not tarn's readable.
func TestStreamsDoWhatTheyMayOnly(t *testing.T) {
	pool, place := poolWithSecret(t)
	zfsOK(t, "clone", "-o", "mountpoint=none", pool.Name+"/secret@1", pool.Name+"/clone")
	zfsOK(t, "snapshot", pool.Name+"/clone@2")
	streams := map[string][]byte{
		"props": stream(t, "-p", pool.Name+"/secret@1"),
		"clone": stream(t, "-i", pool.Name+"/secret@1", pool.Name+"/clone@2"),
		"whole": stream(t, pool.Name+"/secret@1"),
	}
	c := serve(t, Config{Policy: Policy{Base: "tarn", Pools: []Pool{{pool.Name, place}}}, UID: uint32(os.Getuid()), Logger: testLog(t)})
	for _, name := range []string{"props", "clone"} {
		said, err := receiveThrough(t, c, pool.Name+"/tarn/"+name+"@9", streams[name])
		if err == nil || !strings.Contains(said, "refused by the helper") {
			t.Errorf("%s: ended with %v: %s", name, err, said)
		}
		if realzfs.Zfs("list", pool.Name+"/tarn/"+name) == nil {
			t.Errorf("%s: it is there", name)
		}
	}
	if said, err := receiveThrough(t, c, pool.Name+"/tarn/whole@9", streams["whole"]); err != nil {
		t.Errorf("whole: %v: %s", err, said)
	}
	var status zfs.ExitStatus
	if _, err := receiveThrough(t, c, pool.Name+"/tarn/short@9", streams["whole"][:100]); !errors.As(err, &status) {
		t.Errorf("short: %v", err)
	}
}
