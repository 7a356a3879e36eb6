package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
)

// failOver loses the active replica's host while its copy is behind. Zone 1 takes over
// by force, and what only the lost host had is kept when it comes back.
func (s *story) failOver(ctx context.Context) error {
	old, err := s.replica(ctx, s.second)
	if err != nil {
		return err
	}
	next, err := s.replica(ctx, s.first)
	if err != nil {
		return err
	}
	lost, heir := s.nodeOf(old), s.nodeOf(next)
	s.title(fmt.Sprintf("kill -9 %s, the active's host, while the copy is behind: forced failover", lost))
	dir, err := s.mountpoint(ctx, s.second)
	if err != nil {
		return err
	}
	if err := s.writeAlone(ctx, heir, dir); err != nil {
		return err
	}
	if err := s.tarn(ctx, "dev", "kill", lost); err != nil {
		return err
	}
	if err := s.tarn(ctx, "dev", "start", heir); err != nil {
		return err
	}
	if err := s.hostUp(ctx, heir); err != nil {
		return err
	}
	killed := time.Now()
	if err := s.tarn(ctx, "replica", "promote", shareName+"/"+firstZone, "--force", "--reason", lost+" burned down", "--wait"); err != nil {
		return err
	}
	s.say("   %s after the kill; most of it is the wait for the lost host's lease", time.Since(killed).Round(10*time.Millisecond))
	entries, err := os.ReadDir(dir)
	if err := s.check(err != nil || len(entries) == 0, "the lost host's dead-man has taken the data out of reach"); err != nil {
		return err
	}
	return s.rejoin(ctx, lost)
}

// writeAlone writes what no copy gets: the copy's host is down.
func (s *story) writeAlone(ctx context.Context, heir, dir string) error {
	if err := s.tarn(ctx, "dev", "kill", heir); err != nil {
		return err
	}
	before, err := s.replica(ctx, s.second)
	if err != nil {
		return err
	}
	if err := s.files.Write(filepath.Join(dir, "written-alone"), 200_000); err != nil {
		return err
	}
	return s.until(ctx, "a snapshot has it", func(ctx context.Context) (bool, error) {
		now, err := s.replica(ctx, s.second)
		return now.GetObserved().GetHeadGuid() != before.GetObserved().GetHeadGuid(), err
	})
}

func (s *story) hostUp(ctx context.Context, name string) error {
	return s.until(ctx, name+" is up", func(ctx context.Context) (bool, error) {
		h, err := s.api.Hosts.GetHost(ctx, &tarnv1.GetRequest{Id: name})
		return h.GetState() == tarnv1.HostState_HOST_STATE_UP, err
	})
}

// rejoin brings the lost host back.
func (s *story) rejoin(ctx context.Context, lost string) error {
	dir, err := s.mountpoint(ctx, s.first)
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(dir, "written-alone"))
	if err := s.check(errors.Is(err, os.ErrNotExist), "what the lost host had alone is not on the new active"); err != nil {
		return err
	}
	if err := s.files.Write(filepath.Join(dir, "new-times"), 100_000); err != nil {
		return err
	}
	s.say("\n   %s comes back: its data have diverged", lost)
	if err := s.tarn(ctx, "dev", "start", lost); err != nil {
		return err
	}
	var aside *tarnv1.DivergentCopy
	err = s.until(ctx, "the lost host follows, and lists what diverged", func(ctx context.Context) (bool, error) {
		r, err := s.replica(ctx, s.second)
		if copies := r.GetDivergentCopies(); len(copies) > 0 {
			aside = copies[0]
		}
		return aside != nil && r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC, err
	})
	if err != nil {
		return err
	}
	if err := s.sameBytes(ctx, s.first, s.second); err != nil {
		return err
	}
	if err := s.check(true, "what it had alone is kept aside: %s", aside.GetDataset()); err != nil {
		return err
	}
	if s.cluster.Engine() != "" {
		err := s.tarn(ctx, "dev", "exec", lost, "zfs", "list", "-r", "-t", "all", "-o", "name,used,refer,origin", aside.GetDataset())
		if err != nil {
			return err
		}
	}
	return s.purge(ctx, aside)
}

// purge looks at what was put aside, and lets it go.
func (s *story) purge(ctx context.Context, aside *tarnv1.DivergentCopy) error {
	guid := strconv.FormatUint(aside.GetGuid(), 10)
	for _, args := range [][]string{
		{"replica", "divergent", "show", guid},
		{"replica", "divergent", "purge", guid, "--reason", "seen in the demo", "--yes", "--wait"},
	} {
		if err := s.tarn(ctx, args...); err != nil {
			return err
		}
	}
	r, err := s.replica(ctx, s.second)
	if err != nil {
		return err
	}
	return s.check(len(r.GetDivergentCopies()) == 0, "nothing of it is left, by an operator's order")
}
