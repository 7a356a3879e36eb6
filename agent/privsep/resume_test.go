package privsep

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tarn/zfs"
	"tarn/zfs/zfstest"
)

// TestForgedResumeToken: zfs send -t finds its snapshot by the GUID, and uses the name only
// to choose among several, so a token that names a replica and has the GUID of somebody
// else's snapshot would send that.
func TestForgedResumeToken(t *testing.T) {
	const list = `7\ttank/tarn/a@x\n8\ttank/home@x\n9\ttank/tarn/b@x\n9\ttank/home@y\n10\ttank/home@z\n`
	const own = `7\ttank/tarn/a@x\n10\ttank/tarn/a@z\n`
	c := serve(t, Config{Policy: policy(), UID: uint32(os.Getuid()), Logger: testLog(t), Command: func(_ string, args []string) (*exec.Cmd, error) {
		script := "exit 0"
		if args[0] != "send" {
			script = "printf '" + list + "'"
		}
		if slices.Contains(args, "-d") {
			script = "printf '" + own + "'"
		}
		cmd := exec.Command("sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return cmd, nil
	}})
	send := func(name string, guid uint64) error {
		t.Helper()
		token := zfstest.ResumeToken(zfstest.TokenPair{Name: "toguid", Value: guid}, zfstest.TokenPair{Name: "toname", Value: name})
		l, err := c.Launch("zfs", []string{"send", "-t", token}, nil, os.Stderr, os.Stderr)
		if err != nil {
			return err
		}
		return l.Wait()
	}
	for guid, fine := range map[uint64]bool{7: true, 8: false, 9: false, 10: true, 11: true} {
		err := send("tank/tarn/a@x", guid)
		if fine && err != nil || !fine && (!errors.Is(err, zfs.ErrPermission) || !strings.Contains(err.Error(), "tank/home")) {
			t.Errorf("snapshot %d: %v", guid, err)
		}
	}
	if err := send("tank/home@x", 7); !errors.Is(err, zfs.ErrPermission) {
		t.Errorf("name of others: %v", err)
	}
}
