package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// diary writes files and remembers when each was acknowledged, by this machine's
// clock, which is that of every node too.
type diary struct {
	entries []diaryEntry
}

type diaryEntry struct {
	name  string
	data  []byte
	acked time.Time
}

// write adds n files of a few KiB below dir: temporary name, sync, rename, sync of
// the directory. Only then a file counts.
func (d *diary) write(dir string, n int) error {
	for range n {
		e := diaryEntry{name: fmt.Sprintf("entry-%05d", len(d.entries))}
		seed := sha256.Sum256([]byte(dir + e.name))
		e.data = make([]byte, 2000+len(d.entries)*10)
		// ChaCha8 never fails to read.
		_, _ = rand.NewChaCha8(seed).Read(e.data)
		if err := writeDurably(dir, e.name, e.data); err != nil {
			return err
		}
		e.acked = time.Now()
		d.entries = append(d.entries, e)
	}
	return nil
}

// writeDurably goes through a handle of the directory: where a mount has just
// gone it fails instead of making a new directory.
func writeDurably(dir, name string, data []byte) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.OpenFile(name+".part", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := root.Rename(name+".part", name); err != nil {
		return err
	}
	handle, err := root.Open(".")
	if err != nil {
		return err
	}
	if err := errors.Join(handle.Sync(), handle.Close()); err != nil {
		return err
	}
	// Acknowledged is what can be seen where clients look.
	_, err = os.Lstat(filepath.Join(dir, name))
	return err
}

// in sorts the entries by whether dir has them; other bytes are an error.
func (d *diary) in(dir string) (present, missing []diaryEntry, err error) {
	for _, e := range d.entries {
		data, err := os.ReadFile(filepath.Join(dir, e.name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, e)
		case err != nil:
			return nil, nil, err
		case !bytes.Equal(data, e.data):
			return nil, nil, fmt.Errorf("%s has other bytes than were acknowledged", e.name)
		default:
			present = append(present, e)
		}
	}
	return present, missing, nil
}

// whole is nil when dir has every entry.
func (d *diary) whole(dir string) error {
	_, missing, err := d.in(dir)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%d of %d acknowledged files are missing, first %s of %s", len(missing), len(d.entries),
			missing[0].name, missing[0].acked.Format(time.StampMilli))
	}
	return err
}

// clientsMayWrite is what binds clients of a plain directory: users other than the
// agent's own, who may change every mode and does so for as long as it applies an
// increment to a read-only copy.
const clientsMayWrite = 0o022

// writableDirs are the mountpoints of a share's replicas that take clients' writes
// now, by what is on the disk alone: mounted, with the write bits of other users.
func (c *cluster) writableDirs(replicas []string) []string {
	var found []string
	for _, id := range replicas {
		// The only error is that of a malformed pattern.
		dirs, _ := filepath.Glob(filepath.Join(c.Dir(), "nodes", "*", "pools", "*", "mnt", "*", "tarn", id))
		for _, dir := range dirs {
			if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&clientsMayWrite == clientsMayWrite {
				found = append(found, dir)
			}
		}
	}
	return found
}

// openToClients gives the active replicas' directories the write bits of other
// users, which travel with the data from there.
func (c *cluster) openToClients() {
	c.t.Helper()
	replicas, err := c.replicas(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range replicas {
		dir := r.GetObserved().GetMountpoint()
		if r.GetReplicaState() != tarnv1.ReplicaState_REPLICA_STATE_ACTIVE || dir == "" {
			continue
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			c.t.Fatal(err)
		}
		if len(c.writableDirs([]string{r.GetId()})) != 1 {
			c.t.Fatalf("the active replica %s is not seen to be writable", r.GetId())
		}
	}
}

// watchOneWriter looks until the test ends whether two replicas of one share are
// ever writable at one moment. Each argument is the replicas of one share.
func (c *cluster) watchOneWriter(shares ...[]string) {
	c.t.Helper()
	c.openToClients()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	looks := 0
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			looks++
			if pair := c.twoWriters(shares[looks%len(shares)]); pair != nil {
				c.t.Errorf("two replicas were writable at one time: %v", pair)
				return
			}
		}
	}()
	c.t.Cleanup(func() {
		stop()
		<-done
		c.t.Logf("looked %d times for two writers", looks)
	})
}

// watchEveryShare does so for all shares that there are now.
func (c *cluster) watchEveryShare() {
	c.t.Helper()
	replicas, err := c.replicas(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	of := map[string][]string{}
	for _, r := range replicas {
		of[r.GetShareId()] = append(of[r.GetShareId()], r.GetId())
	}
	c.watchOneWriter(slices.Collect(maps.Values(of))...)
}

// twoWriters takes two looks: while one is taken a share may move. What is writable
// in both was so all the time between them.
func (c *cluster) twoWriters(replicas []string) []string {
	first := c.writableDirs(replicas)
	if len(first) < 2 {
		return nil
	}
	before := inodes(first)
	if second := c.writableDirs(replicas); !slices.Equal(first, second) || inodes(second) != before {
		return nil
	}
	return first
}

func inodes(dirs []string) string {
	var out []uint64
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil {
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				out = append(out, s.Ino)
			}
		}
	}
	return fmt.Sprint(out)
}
