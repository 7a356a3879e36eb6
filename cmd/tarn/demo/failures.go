package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	tarnv1 "tarn/proto/tarn/v1"
)

func (s *story) loseLeader(ctx context.Context) error {
	s.title("kill -9 the Raft leader: everything goes on")
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	if err := s.tarn(ctx, "dev", "kill", leader); err != nil {
		return err
	}
	start := time.Now()
	if err := s.tarn(ctx, "snapshot", "create", shareName, "leaderless", "--wait"); err != nil {
		return err
	}
	s.say("   %s after the kill", time.Since(start).Round(10*time.Millisecond))
	next, err := s.leader(ctx)
	if err != nil {
		return err
	}
	if err := s.check(next != leader, "%s leads instead of %s", next, leader); err != nil {
		return err
	}
	dir, err := s.mountpoint(ctx, s.second)
	if err != nil {
		return err
	}
	if err := s.files.Write(dir+"/while-a-node-is-down", 100_000); err != nil {
		return err
	}
	if err := s.sameBytes(ctx, s.second, s.first); err != nil {
		return err
	}
	if err := s.tarn(ctx, "dev", "start", leader); err != nil {
		return err
	}
	return s.tarn(ctx, "operator", "raft", "list")
}

// leader is the name of the node that leads.
func (s *story) leader(ctx context.Context) (name string, err error) {
	err = s.until(ctx, "there is a leader", func(ctx context.Context) (bool, error) {
		status, err := s.api.Operator.GetStatus(ctx, &tarnv1.GetStatusRequest{})
		if err != nil {
			return false, err
		}
		for _, n := range s.cluster.Nodes() {
			if n.Address() == status.GetLeaderAddress() {
				name = n.Name
			}
		}
		return name != "", nil
	})
	return name, err
}

func (s *story) loseAgent(ctx context.Context) error {
	replica, err := s.replica(ctx, s.first)
	if err != nil {
		return err
	}
	node := s.nodeOf(replica)
	s.title(fmt.Sprintf("kill -9 %s, which holds the copy: its lag rises; restarted, it catches up by increment", node))
	if err := s.tarn(ctx, "dev", "kill", node); err != nil {
		return err
	}
	dir, err := s.mountpoint(ctx, s.second)
	if err != nil {
		return err
	}
	before := s.files.Bytes
	if err := s.files.Write(dir+"/while-the-copy-is-down", 500_000); err != nil {
		return err
	}
	samples, err := s.sampleLag(ctx, s.first, s.cluster.Paced(4*time.Second))
	if err != nil {
		return err
	}
	grew := samples[len(samples)-1] > samples[0]+time.Second
	if err := s.check(grew, "lag of the dead copy rises: %s", lagSeries(samples)); err != nil {
		return err
	}
	if err := s.tarn(ctx, "dev", "start", node); err != nil {
		return err
	}
	if err := s.sameBytes(ctx, s.second, s.first); err != nil {
		return err
	}
	return s.caughtUpByIncrement(ctx, node, before)
}

// caughtUpByIncrement reads the restarted agent's own counter: it began at zero,
// so what it shows is what catching up took.
func (s *story) caughtUpByIncrement(ctx context.Context, node string, whole int64) error {
	var moved float64
	err := s.until(ctx, "the agent's counter shows the increment", func(ctx context.Context) (bool, error) {
		page, err := s.metrics(ctx, node)
		moved = sumOf(page, "tarn_transfer_bytes_total", `direction="receive"`)
		return moved > 0, err
	})
	if err != nil {
		return err
	}
	if err := s.check(int64(moved) < whole/4, "catching up moved %.1f MiB of %.1f MiB", moved/(1<<20), float64(whole)/(1<<20)); err != nil {
		return err
	}
	err = s.until(ctx, "the replica is in_sync again", func(ctx context.Context) (bool, error) {
		r, err := s.replica(ctx, s.first)
		return r.GetReplicaState() == tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC, err
	})
	if err != nil {
		return err
	}
	return s.tarn(ctx, "replica", "list", "--share", shareName)
}

// metrics fetches a node's /metrics page.
func (s *story) metrics(ctx context.Context, node string) (string, error) {
	n, err := s.cluster.Node(node)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Admin()+"/metrics", nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("scrape %s: %s", node, answer.Status)
	}
	return string(body), err
}

// sumOf adds up the samples of a metric that carry a label.
func sumOf(page, name, label string) (sum float64) {
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, name+"{") || !strings.Contains(line, label) {
			continue
		}
		fields := strings.Fields(line)
		if v, err := strconv.ParseFloat(fields[len(fields)-1], 64); err == nil {
			sum += v
		}
	}
	return sum
}

// scrape checks that every process answers Prometheus, and keeps the pages if asked to.
func (s *story) scrape(ctx context.Context) error {
	s.title("Metrics of every process")
	if s.cfg.Scrape != "" {
		if err := os.MkdirAll(s.cfg.Scrape, 0o755); err != nil {
			return fmt.Errorf("make scrape directory: %w", err)
		}
	}
	for _, n := range s.cluster.Nodes() {
		var page string
		err := s.until(ctx, n.Name+" answers a scrape", func(ctx context.Context) (_ bool, err error) {
			page, err = s.metrics(ctx, n.Name)
			return err == nil, err
		})
		if err != nil {
			return err
		}
		if s.cfg.Scrape == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(s.cfg.Scrape, n.Name+".prom"), []byte(page), 0o644); err != nil {
			return fmt.Errorf("save scrape: %w", err)
		}
	}
	return s.check(true, "all %d processes answer /metrics", len(s.cluster.Nodes()))
}

func (s *story) deleteAll(ctx context.Context) error {
	s.title("Delete")
	var dirs []string
	for _, id := range []string{s.first, s.second} {
		dir, err := s.mountpoint(ctx, id)
		if err != nil {
			return err
		}
		dirs = append(dirs, dir)
	}
	for _, args := range [][]string{
		{"snapshot", "delete", "noon", "leaderless", "--wait"},
		{"replica", "delete", shareName + "/" + nextZone, "--wait"},
		{"share", "delete", shareName, "--wait"},
		{"share-type", "delete", typeName},
	} {
		if err := s.tarn(ctx, args...); err != nil {
			return err
		}
	}
	_, err := s.api.Shares.GetShare(ctx, &tarnv1.GetRequest{Id: s.share})
	if err := s.check(connect.CodeOf(err) == connect.CodeNotFound, "the share is gone"); err != nil {
		return err
	}
	for _, dir := range dirs {
		// The mountpoint may stay, with nothing in it.
		entries, err := os.ReadDir(dir)
		if err := s.check(errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0, "%s is gone", dir); err != nil {
			return err
		}
	}
	return nil
}
