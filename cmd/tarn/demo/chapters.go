package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"tarn/cmd/tarn/filetree"
	tarnv1 "tarn/proto/tarn/v1"
)

const (
	shareName = "web"
	typeName  = "gold"
	firstZone = "az1"
	nextZone  = "az2"
)

func (s *story) lookAround(ctx context.Context) error {
	for _, args := range [][]string{{"dev", "status"}, {"host", "list"}, {"pool", "list"}, {"status"}} {
		if err := s.tarn(ctx, args...); err != nil {
			return err
		}
	}
	if engine := s.cluster.Engine(); engine != "" {
		if err := s.tarn(ctx, "dev", "exec", "agent2", "zpool", "list"); err != nil {
			return err
		}
		s.say("   the pools are real, in files of this directory; what drives them is %s", engine)
	}
	pools, err := s.api.Hosts.ListPools(ctx, &tarnv1.ListPoolsRequest{})
	if err != nil {
		return err
	}
	return s.check(len(pools.GetPools()) == 5, "4 agents advertise 5 pools in one replication domain")
}

func (s *story) createShare(ctx context.Context) error {
	rpo := s.cluster.Paced(10 * time.Second)
	s.title(fmt.Sprintf("A share type that promises a readable copy, at most %.0f s behind, and a share in zone 1", rpo.Seconds()))
	for _, args := range [][]string{
		{"share-type", "create", typeName, "--replication-type", "readable", "--rpo", rpo.String()},
		{"share", "create", shareName, "--type", typeName, "--size", "1", "--zone", firstZone, "--wait"},
		{"access", "allow", shareName, "127.0.0.0/8", "--wait"},
	} {
		if err := s.tarn(ctx, args...); err != nil {
			return err
		}
	}
	shares, err := s.api.Shares.ListShares(ctx, &tarnv1.ListSharesRequest{Name: shareName})
	if err != nil || len(shares.GetShares()) != 1 {
		return errors.Join(fmt.Errorf("found %d shares", len(shares.GetShares())), err)
	}
	share := shares.GetShares()[0]
	s.share, s.first = share.GetId(), share.GetFencing().GetOwnerReplicaId()
	return s.check(share.GetAvailabilityZone() == firstZone, "the share is in %s", firstZone)
}

func (s *story) writeFiles(ctx context.Context) error {
	s.title("Write real files into it")
	dir, err := s.mountpoint(ctx, s.first)
	if err != nil {
		return err
	}
	s.files = filetree.New(1)
	if err := s.files.Fill(dir); err != nil {
		return err
	}
	s.say("   %d files, %.1f MiB, written and synced below %s", s.files.Count, float64(s.files.Bytes)/(1<<20), dir)
	return nil
}

func (s *story) addReplica(ctx context.Context) error {
	s.title("A replica in zone 2")
	if err := s.tarn(ctx, "replica", "create", shareName, "--zone", nextZone, "--wait"); err != nil {
		return err
	}
	replicas, err := s.api.Replicas.ListReplicas(ctx, &tarnv1.ListReplicasRequest{ShareId: s.share})
	if err != nil {
		return err
	}
	for _, r := range replicas.GetReplicas() {
		if r.GetId() != s.first {
			s.second = r.GetId()
		}
	}
	if err := s.tarn(ctx, "replica", "list", "--share", shareName); err != nil {
		return err
	}
	return s.sameBytes(ctx, s.first, s.second)
}

// sameBytes waits until the copy has everything and compares it with the original.
func (s *story) sameBytes(ctx context.Context, from, to string) error {
	a, err := s.mountpoint(ctx, from)
	if err != nil {
		return err
	}
	b, err := s.mountpoint(ctx, to)
	if err != nil {
		return err
	}
	var entries int
	err = s.until(ctx, "both trees are equal", func(context.Context) (bool, error) {
		diff, n, err := filetree.Difference(a, b)
		if err != nil {
			return false, err
		}
		entries = n
		if len(diff) > 0 {
			return false, errors.New(strings.Join(diff, ", "))
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return s.check(true, "%d entries are the same byte for byte on both replicas", entries)
}

func (s *story) takeSnapshot(ctx context.Context) error {
	s.title("A snapshot, available on both")
	if err := s.tarn(ctx, "snapshot", "create", shareName, "noon", "--wait"); err != nil {
		return err
	}
	if err := s.tarn(ctx, "snapshot", "instance", "list", "--snapshot", "noon"); err != nil {
		return err
	}
	return s.until(ctx, "both instances are available", func(ctx context.Context) (bool, error) {
		list, err := s.api.Snapshots.ListSnapshotInstances(ctx, &tarnv1.ListSnapshotInstancesRequest{ShareId: s.share})
		if err != nil {
			return false, err
		}
		available := 0
		for _, i := range list.GetSnapshotInstances() {
			if i.GetStatus() == tarnv1.Status_STATUS_AVAILABLE {
				available++
			}
		}
		if available < 2 {
			return false, fmt.Errorf("%d of 2", available)
		}
		if err := s.check(true, "the snapshot is available on both replicas"); err != nil {
			return false, err
		}
		return true, s.sameGUID(ctx, list.GetSnapshotInstances())
	})
}

// sameGUID asks the pools themselves, where there are real ones: a snapshot is the
// same if its GUID is.
func (s *story) sameGUID(ctx context.Context, instances []*tarnv1.SnapshotInstance) error {
	if s.cluster.Engine() == "" {
		return nil
	}
	guids := map[string]bool{}
	for _, i := range instances {
		r, err := s.replica(ctx, i.GetReplicaId())
		if err != nil {
			return err
		}
		if err := s.tarn(ctx, "dev", "exec", s.nodeOf(r), "zfs", "get", "-Hp", "-o", "value", "guid", i.GetProviderLocation()); err != nil {
			return err
		}
		guids[s.last] = true
	}
	return s.check(len(guids) == 1, "both pools say the same GUID")
}

func (s *story) watchLag(ctx context.Context) error {
	s.title("More writes: the lag rises between snapshots and falls with each increment")
	dir, err := s.mountpoint(ctx, s.first)
	if err != nil {
		return err
	}
	writing, stop := context.WithTimeout(ctx, s.cluster.Paced(6*time.Second))
	defer stop()
	written := make(chan error, 1)
	go func() { written <- s.files.Grow(writing, dir) }()
	samples, err := s.sampleLag(ctx, s.second, s.cluster.Paced(6*time.Second))
	if err := errors.Join(err, <-written); err != nil {
		return err
	}
	if err := s.check(roseAndFell(samples), "lag rose and fell: %s", lagSeries(samples)); err != nil {
		return err
	}
	return s.sameBytes(ctx, s.first, s.second)
}

// sampleLag reads a replica's lag four times a second, seldomer where times are longer. Unknown is -1.
func (s *story) sampleLag(ctx context.Context, id string, during time.Duration) ([]time.Duration, error) {
	tick := time.NewTicker(s.cluster.Paced(250 * time.Millisecond))
	defer tick.Stop()
	end := time.After(during)
	var out []time.Duration
	for {
		r, err := s.replica(ctx, id)
		if err != nil {
			return nil, err
		}
		lag := time.Duration(-1)
		if l := r.GetObserved().GetLag(); l != nil {
			lag = l.AsDuration()
		}
		out = append(out, lag)
		select {
		case <-end:
			return out, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// roseAndFell tells whether some sample is well above an earlier one and some
// later one well below that.
func roseAndFell(samples []time.Duration) bool {
	const clear = 200 * time.Millisecond
	low, rose := time.Hour, time.Duration(-1)
	for _, lag := range samples {
		switch {
		case lag < 0:
			continue
		case rose >= 0 && lag < rose-clear:
			return true
		}
		low = min(low, lag)
		if lag > low+clear {
			rose = max(rose, lag)
		}
	}
	return false
}

func lagSeries(samples []time.Duration) string {
	words := make([]string, len(samples))
	for i, lag := range samples {
		words[i] = fmt.Sprintf("%.1f", lag.Seconds())
	}
	return strings.Join(words, " ") + " s"
}

func (s *story) promote(ctx context.Context) error {
	s.title("Planned promotion: zone 2 takes over, nothing is lost")
	if err := s.tarn(ctx, "replica", "promote", shareName+"/"+nextZone, "--wait"); err != nil {
		return err
	}
	if err := s.tarn(ctx, "replica", "list", "--share", shareName); err != nil {
		return err
	}
	dir, err := s.mountpoint(ctx, s.second)
	if err != nil {
		return err
	}
	s.say("\n   writes go on in %s", dir)
	for i := range 10 {
		if err := s.files.Write(fmt.Sprintf("%s/after-promotion/%d", dir, i), 50_000); err != nil {
			return err
		}
	}
	if err := s.sameBytes(ctx, s.second, s.first); err != nil {
		return err
	}
	return s.nfsAfterPromotion(ctx)
}
