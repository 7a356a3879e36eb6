package demo

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// nfsClient is libnfs's command line: a real client that needs no kernel, no mount
// and no root.
type nfsClient struct{ cp, cat string }

// nobodysUser writes over NFS: a client's root is no one here.
const nobodysUser = 65534

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
	s.title("The same share over NFS, with a client of its own")
	dir, err := s.mountpoint(ctx, s.first)
	if err != nil {
		return err
	}
	// The share's owner lets others write: the client's root is nobody.
	if err := os.Chmod(dir, 0o1777); err != nil {
		return err
	}
	if err := s.nfsWrites(ctx, s.first, "over-nfs"); err != nil {
		return err
	}
	if err := s.nfsReads(ctx, s.second, "over-nfs"); err != nil {
		return err
	}
	return s.nfsRefused(ctx, s.second, "the copy is read-only")
}

// nfsAfterPromotion shows that the same rules write on the new active, and there only.
func (s *story) nfsAfterPromotion(ctx context.Context) error {
	if s.nfs == nil {
		return nil
	}
	if err := s.nfsWrites(ctx, s.second, "over-nfs-after"); err != nil {
		return err
	}
	if err := s.nfsReads(ctx, s.first, "over-nfs-after"); err != nil {
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
	u := url.URL{Scheme: "nfs", Host: n.IP, Path: filepath.Join(r.GetObserved().GetMountpoint(), file), RawQuery: url.Values{
		"version": {strconv.Itoa(n.NFSVersion)}, "nfsport": {strconv.Itoa(n.NFS)}, "mountport": {strconv.Itoa(n.NFS)}, "uid": {strconv.Itoa(nobodysUser)}, "gid": {strconv.Itoa(nobodysUser)},
	}.Encode()}
	return u.String(), nil
}

func nfsContent(file string) []byte {
	return []byte(strings.Repeat(file+" was written over NFS\n", 1000))
}

// nfsCopy copies a file of known content to a replica.
func (s *story) nfsCopy(ctx context.Context, replica, file string) error {
	local := filepath.Join(s.cfg.Dir, file)
	if err := os.WriteFile(local, nfsContent(file), 0o600); err != nil {
		return err
	}
	to, err := s.target(ctx, replica, file)
	if err != nil {
		return err
	}
	_, err = s.shown(ctx, s.nfs.cp, "nfs-cp", local, to)
	return err
}

// nfsWrites waits until a client may write, which is a moment after a change.
func (s *story) nfsWrites(ctx context.Context, replica, file string) error {
	begun := time.Now()
	err := s.until(ctx, "a client may write", func(ctx context.Context) (bool, error) {
		err := s.nfsCopy(ctx, replica, file)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	dir, err := s.mountpoint(ctx, replica)
	if err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err
	}
	return s.check(bytes.Equal(got, nfsContent(file)), "written over NFS, and there are the bytes, %s after the first try", time.Since(begun).Round(time.Millisecond))
}

func (s *story) nfsReads(ctx context.Context, replica, file string) error {
	from, err := s.target(ctx, replica, file)
	if err != nil {
		return err
	}
	s.say("\n$ nfs-cat %s", from)
	err = s.until(ctx, "the copy shows "+file+" over NFS", func(ctx context.Context) (bool, error) {
		out, err := exec.CommandContext(ctx, s.nfs.cat, from).Output()
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
	err := s.nfsCopy(ctx, replica, "refused")
	return s.check(err != nil, "%s: a write over NFS is refused", why)
}
