package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// diskSize of a pool's file. It is sparse: what is not written costs nothing.
const diskSize = 8 << 30

const (
	// toolPatience bounds one zpool command; creating a pool on a busy disk takes seconds.
	toolPatience = time.Minute
	// exportPatience is how long a pool may be busy with what just ended.
	exportPatience = 15 * time.Second
)

// disk is what is remembered of a pool: enough to know it again, and to leave alone
// whatever else may have its name.
type disk struct {
	Pool string `json:"pool"`
	File string `json:"file"`
	// GUID of the pool; "" while it is being created.
	GUID string `json:"guid"`
}

func (c *Cluster) diskRecord(pool string) string {
	return filepath.Join(c.dir, "run", "pool-"+pool+".json")
}

func (c *Cluster) diskFile(n Node, pool string) string {
	return filepath.Join(c.dataDir(n), "disks", pool+".img")
}

func (c *Cluster) mountRoot(n Node, pool string) string {
	return filepath.Join(c.dataDir(n), "mnt", pool)
}

func (c *Cluster) disk(pool string) (disk, error) {
	var d disk
	data, err := os.ReadFile(c.diskRecord(pool))
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	if err != nil {
		return d, fmt.Errorf("read record of pool %s: %w", pool, err)
	}
	return d, nil
}

// usePools makes or imports the pools of a host; those that are there are left alone.
func (c *Cluster) usePools(ctx context.Context, n Node) error {
	for _, pool := range n.Pools {
		if err := c.usePool(ctx, n, pool); err != nil {
			return fmt.Errorf("pool %s of %s: %w", pool, n.Name, err)
		}
	}
	return nil
}

func (c *Cluster) usePool(ctx context.Context, n Node, pool string) error {
	d, err := c.disk(pool)
	if err != nil {
		return err
	}
	guid, err := c.poolGUID(ctx, n, pool)
	switch {
	case err != nil:
		return err
	case guid != "" && d.GUID == "" && d.Pool == pool:
		// Made by us and not yet written down: its name has the cluster's own number.
		d.GUID = guid
		return writeJSON(c.diskRecord(pool), d)
	case guid != "" && guid != d.GUID:
		return fmt.Errorf("a pool of this name is there with GUID %s, which is not this cluster's: export it, or make another cluster", guid)
	case guid != "":
		return nil
	case d.GUID != "":
		return c.zpool(ctx, n, "import", "-f", "-d", filepath.Dir(d.File), d.GUID)
	}
	return c.makePool(ctx, n, disk{Pool: pool, File: c.diskFile(n, pool)})
}

func (c *Cluster) makePool(ctx context.Context, n Node, d disk) error {
	if err := os.MkdirAll(filepath.Dir(d.File), 0o700); err != nil {
		return err
	}
	// Before the pool exists, so that it is known as ours whatever happens.
	if err := writeJSON(c.diskRecord(d.Pool), d); err != nil {
		return err
	}
	f, err := os.OpenFile(d.File, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close()); err != nil {
		return err
	}
	err = c.zpool(ctx, n, "create", "-f", "-O", "canmount=off", "-m", "none", d.Pool, d.File)
	if err != nil {
		return err
	}
	if d.GUID, err = c.poolGUID(ctx, n, d.Pool); err != nil {
		return err
	}
	return writeJSON(c.diskRecord(d.Pool), d)
}

// poolGUID is "" when no pool of that name is there.
func (c *Cluster) poolGUID(ctx context.Context, n Node, pool string) (string, error) {
	out, err := c.output(ctx, n, "zpool", "list", "-H", "-o", "name,guid")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == pool {
			return fields[1], nil
		}
	}
	return "", nil
}

// leavePools exports the pools of a host, so that nothing of them is left but their
// files. Only what is known by its GUID is touched.
func (c *Cluster) leavePools(ctx context.Context, n Node) error {
	var errs []error
	for _, pool := range n.Pools {
		d, err := c.disk(pool)
		if err == nil && d.GUID != "" {
			err = c.leavePool(ctx, n, d)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("export pool %s of %s: %w", pool, n.Name, err))
		}
	}
	return errors.Join(errs...)
}

// leavePool is patient: file systems are busy for a moment after their users ended.
func (c *Cluster) leavePool(ctx context.Context, n Node, d disk) error {
	ctx, cancel := context.WithTimeout(ctx, c.Paced(exportPatience))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		guid, err := c.poolGUID(ctx, n, d.Pool)
		if err == nil && guid != d.GUID {
			return nil
		}
		if err == nil {
			c.settlePool(ctx, n, d.Pool)
			err = c.zpool(ctx, n, "export", d.Pool)
		}
		if err == nil {
			continue // and see that it is gone
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// settleAsks is how often a filesystem is asked before it is unmounted: each answer of
// zfs-fuse proves that it has read some more of what the kernel had for it.
const settleAsks = 8

// settleTime bounds it: a daemon that answers no more is not waited for.
const settleTime = time.Second

// settlePool lets zfs-fuse hear of the files that have been closed: an unmount before that
// hangs the daemon (zfs/settle.go). What goes wrong here goes wrong again in the export.
func (c *Cluster) settlePool(ctx context.Context, n Node, pool string) {
	if c.layout.Engine != ZFSFuse {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.Paced(settleTime))
	asked := make(chan struct{})
	go func() { // what asks a daemon that hangs cannot be killed before that is
		defer cancel()
		defer close(asked)
		c.askPool(ctx, n, pool)
	}()
	select {
	case <-asked:
	case <-ctx.Done():
	}
}

func (c *Cluster) askPool(ctx context.Context, n Node, pool string) {
	list, err := c.output(ctx, n, "zfs", "list", "-H", "-o", "mounted,mountpoint", "-r", pool)
	if err != nil {
		return
	}
	for line := range strings.Lines(list) {
		if dir, mounted := strings.CutPrefix(strings.TrimRight(line, "\n"), "yes\t"); mounted {
			_, _ = c.output(ctx, n, "stat", append([]string{"-f", "--"}, slices.Repeat([]string{dir}, settleAsks)...)...)
		}
	}
}

func (c *Cluster) zpool(ctx context.Context, n Node, args ...string) error {
	_, err := c.output(ctx, n, "zpool", args...)
	return err
}

// output runs a program where a host's pools are, and gives what it wrote.
func (c *Cluster) output(ctx context.Context, n Node, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := c.begin(n, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
