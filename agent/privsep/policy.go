package privsep

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"tarn/zfs"
)

// ErrRefused says that a call is none that the helper does for anybody.
var ErrRefused = errors.New("refused by the helper")

// Pool is what the helper may touch of one pool.
type Pool struct {
	Name string
	// Mountpoint is the directory below which replicas are mounted; "" for /NAME/BASE.
	Mountpoint string
}

// Policy is what calls are held against. It is a value and has no state.
type Policy struct {
	Pools []Pool
	// Base is the dataset below each pool that holds the replicas, one component.
	Base string
	// KeyDir holds the keys of encrypted shares; "": none are loaded.
	KeyDir string

	also  []string // assignments that tests need besides
	trees bool     // datasets of any depth, which the engine's tests make
}

// Check refuses a command of zfs(8) or zpool(8) that is not of a known shape and about
// what is below the base. changes tells whether it does more than look.
func (p Policy) Check(tool string, args []string) (changes bool, err error) {
	if len(args) == 0 {
		return false, p.tool(tool) // prints its usage
	}
	table := zfsVerbs
	if tool == toolZpool {
		table = zpoolVerbs
	} else if err := p.tool(tool); err != nil {
		return false, err
	}
	v, known := table[args[0]]
	if !known {
		return true, fmt.Errorf("%w: %s %.40q", ErrRefused, tool, args[0])
	}
	if err := v.check(p, args[1:]); err != nil {
		return v.changes, fmt.Errorf("%w: %s %s: %w", ErrRefused, tool, args[0], err)
	}
	return v.changes, nil
}

const (
	toolZFS   = "zfs"
	toolZpool = "zpool"
)

func (p Policy) tool(name string) error {
	if name != toolZFS && name != toolZpool {
		return fmt.Errorf("%w: no tool %.40q", ErrRefused, name)
	}
	return nil
}

func (p Policy) pool(name string) (Pool, bool) {
	i := slices.IndexFunc(p.Pools, func(x Pool) bool { return x.Name == name })
	if i < 0 {
		return Pool{}, false
	}
	return p.Pools[i], true
}

// visible allows looking at anything in the configured pools.
func (p Policy) visible(name string) error {
	dataset := name
	if i := strings.IndexAny(name, "@#"); i >= 0 {
		dataset = name[:i]
		if err := zfs.ValidateSnapshotName(name[i+1:]); err != nil {
			return err
		}
	}
	if err := zfs.ValidateDataset(dataset); err != nil {
		return err
	}
	pool, _, _ := strings.Cut(dataset, "/")
	if _, ok := p.pool(pool); !ok {
		return fmt.Errorf("pool %s is not configured", pool)
	}
	return nil
}

// Owned allows changing the base of a pool and what is below it.
func (p Policy) Owned(dataset string) error {
	if err := zfs.ValidateDataset(dataset); err != nil {
		return err
	}
	pool, rest, _ := strings.Cut(dataset, "/")
	if _, ok := p.pool(pool); !ok {
		return fmt.Errorf("pool %s is not configured", pool)
	}
	if rest != p.Base && !strings.HasPrefix(rest, p.Base+"/") {
		return fmt.Errorf("dataset %s is not below %s/%s", dataset, pool, p.Base)
	}
	return nil
}

// below is Owned without the base itself.
func (p Policy) below(dataset string) error {
	if err := p.Owned(dataset); err != nil {
		return err
	}
	if strings.Count(dataset, "/") < 2 {
		return fmt.Errorf("dataset %s is the base itself", dataset)
	}
	return nil
}

func (p Policy) snapshot(full string) error {
	dataset, _, err := zfs.ValidateSnapshot(full)
	if err != nil {
		return err
	}
	return p.Owned(dataset)
}

func (p Policy) bookmark(full string) error {
	dataset, _, err := zfs.ValidateBookmark(full)
	if err != nil {
		return err
	}
	return p.Owned(dataset)
}

// mounts is the directory below which a pool's replicas are mounted.
func (p Policy) mounts(pool Pool) string {
	if pool.Mountpoint != "" {
		return filepath.Clean(pool.Mountpoint)
	}
	return "/" + pool.Name + "/" + p.Base
}

// mountable allows directories at or below where a pool's replicas belong.
func (p Policy) mountable(dir string) error {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || strings.ContainsAny(dir, "\x00\n") {
		return fmt.Errorf("%.300q is not a clean absolute path", dir)
	}
	for _, pool := range p.Pools {
		if root := p.mounts(pool); dir == root || strings.HasPrefix(dir, root+"/") {
			return nil
		}
	}
	return fmt.Errorf("%s is not below a pool's mountpoint", dir)
}

// exportable allows where single replicas are mounted: exporting the directory above them
// would export them all, and what is below one is its clients' to make, links to elsewhere
// included, which servers follow.
func (p Policy) exportable(dir string) error {
	if err := p.mountable(dir); err != nil {
		return err
	}
	for _, pool := range p.Pools {
		name, below := strings.CutPrefix(dir, p.mounts(pool)+"/")
		if below && !strings.HasPrefix(name, ".") && zfs.ValidateComponent(name) == nil {
			return nil
		}
	}
	return fmt.Errorf("%s is not where a replica is mounted", dir)
}
