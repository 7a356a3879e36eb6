package demo

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarn/cmd/tarn/dev"
)

// nfsClient is libnfs's command line: a real client that needs no kernel, no mount
// and no root. before is what its programs are started with.
type nfsClient struct {
	cp, cat string
	before  []string
	files   int // tried to write
}

// nfsUser writes over NFS: a client's root is nobody.
const nfsUser = 1000

// shiftedClock starts a program whose monotonic clock is 25 days ahead. libnfs makes
// the verifier of an exclusive create from it, which the server keeps in the file's
// times; zfs-fuse has 31 bits for those, and the verifier of a machine that has not
// been up for so long has 32.
func shiftedClock() []string { return []string{"unshare", "--time", "--monotonic", "2200000"} }

func (c nfsClient) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	line := append(slices.Clone(c.before), program)
	line = append(line, args...)
	return exec.CommandContext(ctx, line[0], line[1:]...)
}

// findNFS finds the client; nil if there is none on this machine.
func findNFS() *nfsClient {
	cp, err := exec.LookPath("nfs-cp")
	if err != nil {
		return nil
	}
	cat, err := exec.LookPath("nfs-cat")
	if err != nil {
		return nil
	}
	return &nfsClient{cp: cp, cat: cat}
}

// useNFS writes and reads through a real client, where shares are served over NFS
// and there is one.
func (s *story) useNFS(ctx context.Context) error {
	r, err := s.replica(ctx, s.first)
	if err != nil {
		return err
	}
	n, err := s.cluster.Node(s.nodeOf(r))
	if err != nil || n.NFS == 0 {
		return err
	}
	if s.nfs = findNFS(); s.nfs == nil {
		s.say("\n   shares are served over NFS; with nfs-cp and nfs-cat (Debian package libnfs-utils) this demo would use them")
		return nil
	}
	if s.cluster.Engine() == dev.ZFSFuse {
		s.nfs.before = shiftedClock()
	}
	s.title("The same share over NFS, with a client of its own")
	dir, err := s.mountpoint(ctx, s.first)
	if err != nil {
		return err
	}
	// The share's owner lets others write: the client's root is nobody.
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	file, err := s.nfsWrites(ctx, s.first)
	if err != nil {
		return err
	}
	if err := s.nfsReads(ctx, s.second, file); err != nil {
		return err
	}
	return s.nfsRefused(ctx, s.second, "the copy is read-only")
}

// nfsAfterPromotion shows that the same rules write on the new active, and there only.
func (s *story) nfsAfterPromotion(ctx context.Context) error {
	if s.nfs == nil {
		return nil
	}
	file, err := s.nfsWrites(ctx, s.second)
	if err != nil {
		return err
	}
	if err := s.nfsReads(ctx, s.first, file); err != nil {
		return err
	}
	return s.nfsRefused(ctx, s.first, "the old active is read-only")
}

// target is the URL of a file of a replica.
func (s *story) target(ctx context.Context, replica, file string) (string, error) {
	r, err := s.replica(ctx, replica)
	if err != nil {
		return "", err
	}
	n, err := s.cluster.Node(s.nodeOf(r))
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "nfs", Host: n.IP, Path: filepath.Join(r.GetObserved().GetMountpoint(), file)}
	// The order is libnfs's: the user is of the connection that the version makes.
	u.RawQuery = fmt.Sprintf("version=%d&nfsport=%d&mountport=%d&uid=%d&gid=%d", n.NFSVersion, n.NFS, n.NFS, nfsUser, nfsUser)
	return u.String(), nil
}

// nfsContent is no more than Debian's libnfs can write over NFSv4 in one piece.
func nfsContent(file string) []byte {
	return []byte(strings.Repeat(file+" was written over NFS\n", 60))
}

// nfsCopy prepares to copy a file of known content to a replica.
func (s *story) nfsCopy(ctx context.Context, replica, file string) (cmd *exec.Cmd, words []string, err error) {
	local := filepath.Join(s.cfg.Dir, file)
	if err := os.WriteFile(local, nfsContent(file), 0o600); err != nil {
		return nil, nil, err
	}
	to, err := s.target(ctx, replica, file)
	return s.nfs.command(ctx, s.nfs.cp, local, to), []string{"nfs-cp", local, to}, err
}

// nfsWrites waits until a client may write, which is a moment after a change, and
// gives the file's name: a try that failed half way keeps its own.
func (s *story) nfsWrites(ctx context.Context, replica string) (file string, err error) {
	begun := time.Now()
	err = s.until(ctx, "a client may write", func(ctx context.Context) (bool, error) {
		s.nfs.files++
		file = fmt.Sprintf("over-nfs-%d", s.nfs.files)
		cmd, words, err := s.nfsCopy(ctx, replica, file)
		if err != nil {
			return false, err
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return false, fmt.Errorf("%w: %s", err, out)
		}
		s.say("\n$ %s", strings.Join(words, " "))
		return true, nil
	})
	if err != nil {
		return "", err
	}
	dir, err := s.mountpoint(ctx, replica)
	if err != nil {
		return "", err
	}
	got, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return "", err
	}
	return file, s.check(bytes.Equal(got, nfsContent(file)), "written over NFS, and the bytes are there, %s after the first try", time.Since(begun).Round(time.Millisecond))
}

func (s *story) nfsReads(ctx context.Context, replica, file string) error {
	from, err := s.target(ctx, replica, file)
	if err != nil {
		return err
	}
	s.say("\n$ nfs-cat %s", from)
	err = s.until(ctx, "the copy shows "+file+" over NFS", func(ctx context.Context) (bool, error) {
		out, err := s.nfs.command(ctx, s.nfs.cat, from).Output()
		if err == nil && !bytes.Equal(out, nfsContent(file)) {
			err = fmt.Errorf("%d bytes of something else", len(out))
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	return s.check(true, "read over NFS from the copy: the same %d bytes", len(nfsContent(file)))
}

func (s *story) nfsRefused(ctx context.Context, replica, why string) error {
	cmd, words, err := s.nfsCopy(ctx, replica, "refused")
	if err != nil {
		return err
	}
	err = s.show(cmd, words...)
	refused := err != nil && (strings.Contains(s.last, "ERR_ROFS") || strings.Contains(s.last, "ERR_ACC"))
	return s.check(refused, "%s: a write over NFS is refused", why)
}
