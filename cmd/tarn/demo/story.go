package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"tarn/cmd/tarn/dev"
	"tarn/cmd/tarn/filetree"
	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

// Config says where the story is told.
type Config struct {
	Binary string    // the tarn program that is shown
	Dir    string    // state directory; it must not exist or be empty
	Out    io.Writer // what the audience sees
	Keep   bool      // leave the cluster running, and its data
	Scrape string    // directory for a copy of every /metrics page; "" none
	// Storage of the hosts: "dir" if left out, or "zfs": real pools, as root.
	Storage string
	// Pace makes all times as many times as long, for slow machines; 0 is 1.
	Pace int
}

// patience bounds each single thing that is waited for, where times are not longer.
const patience = 30 * time.Second

// story is one telling.
type story struct {
	cfg     Config
	cluster *dev.Cluster
	api     *client.Client
	begun   time.Time
	chapter int
	checks  int
	// share and replica ids, known once they exist: first is made in the first zone,
	// second in the next.
	share, first, second string
	files                *filetree.Tree
	nfs                  *nfsClient // nil: shares are not reached over NFS here
	last                 string     // output of the last command shown
}

// Run tells the whole story. The first check that does not hold ends it.
func Run(ctx context.Context, cfg Config) error {
	s := &story{cfg: cfg, begun: time.Now()}
	err := s.open(ctx)
	if err == nil {
		err = s.tell(ctx)
	}
	if err != nil {
		s.explain(err)
	}
	return errors.Join(err, s.close(context.WithoutCancel(ctx), err != nil))
}

func (s *story) open(ctx context.Context) error {
	s.title("A cluster of separate processes: 3 control-plane nodes, 4 agents in 2 zones")
	cluster, err := dev.Create(s.cfg.Dir, s.cfg.Binary, dev.Options{Servers: 3, Agents: 4, Zones: 2, Storage: s.cfg.Storage, Pace: s.cfg.Pace})
	if err != nil {
		return err
	}
	s.cluster = cluster
	if err := cluster.StartAll(); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, s.cluster.Paced(patience))
	defer cancel()
	if err := cluster.Ready(ready); err != nil {
		return err
	}
	s.api, err = cluster.Client()
	return err
}

func (s *story) tell(ctx context.Context) error {
	for _, chapter := range []func(context.Context) error{
		s.lookAround, s.createShare, s.writeFiles, s.addReplica, s.takeSnapshot, s.useNFS, s.watchLag,
		s.promote, s.loseLeader, s.loseAgent, s.failOver, s.scrape, s.deleteAll,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// close ends the cluster and removes its data, or says how to go on with it.
func (s *story) close(ctx context.Context, failed bool) error {
	if s.api != nil {
		s.api.Close()
	}
	if s.cluster == nil {
		return nil
	}
	if s.cfg.Keep {
		s.say("the cluster goes on running: export TARN_CONFIG=%s; tarn dev down ends it", s.cluster.ClientConfig())
		return nil
	}
	s.title("Stop everything and clean up")
	if err := s.cluster.TerminateAll(ctx); err != nil {
		return err
	}
	if failed {
		s.say("state and logs are kept in %s", s.cfg.Dir)
		return nil
	}
	if err := s.noneLeft(ctx); err != nil {
		return err
	}
	if err := s.cluster.Remove(); err != nil {
		return err
	}
	s.say("\nAll %d checks held, in %s.", s.checks, time.Since(s.begun).Round(100*time.Millisecond))
	return nil
}

func (s *story) noneLeft(ctx context.Context) error {
	for _, n := range append(s.cluster.Nodes(), s.cluster.Storages()...) {
		state, pid := s.cluster.State(n.Name)
		if err := s.check(state == "down", "%s has ended", n.Name); err != nil {
			return fmt.Errorf("%w: pid %d is %s", err, pid, state)
		}
	}
	if s.cluster.Engine() == "" {
		return nil
	}
	left, err := s.cluster.PoolsLeft(ctx)
	if err != nil {
		return err
	}
	return s.check(len(left) == 0, "no pool is left")
}

func (s *story) explain(err error) {
	s.say("\nFAILED in chapter %d: %v", s.chapter, err)
	if s.cluster == nil {
		return
	}
	for _, n := range append(s.cluster.Nodes(), s.cluster.Storages()...) {
		s.say("--- %s\n%s", s.cluster.LogFile(n.Name), s.cluster.LogTail(n.Name, 5))
	}
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.cfg.Out, format+"\n", args...) }

func (s *story) title(text string) {
	s.chapter++
	s.say("\n== %d. %s  [%.1f s]", s.chapter, text, time.Since(s.begun).Seconds())
}

// check counts what held and ends the story at what did not.
func (s *story) check(ok bool, format string, args ...any) error {
	claim := fmt.Sprintf(format, args...)
	if !ok {
		return fmt.Errorf("check does not hold: %s", claim)
	}
	s.checks++
	s.say("   ok: %s", claim)
	return nil
}

// tarn runs one command as a user would, shows it with its output, and fails if it does.
func (s *story) tarn(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.cfg.Binary, args...)
	cmd.Env = append(os.Environ(), "TARN_CONFIG="+s.cluster.ClientConfig(), "TARN_DEV=", "TARN_PROJECT=")
	return s.show(cmd, append([]string{"tarn"}, args...)...)
}

// show runs a command, shows it as words that a user would type, and its output.
func (s *story) show(cmd *exec.Cmd, words ...string) error {
	line := strings.Join(words, " ")
	s.say("\n$ %s", line)
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	err := cmd.Run()
	s.last = strings.TrimRight(both.String(), "\n")
	s.say("%s", s.last)
	if err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
}

// until polls cond until it holds. what is for the error.
func (s *story) until(ctx context.Context, what string, cond func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, s.cluster.Paced(patience))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error // of a try that was not cut
	for {
		ok, err := cond(ctx)
		if ok {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %s (%w)", s.cluster.Paced(patience), what, errors.Join(last, ctx.Err()))
		case <-tick.C:
		}
	}
}

func (s *story) replica(ctx context.Context, id string) (*tarnv1.Replica, error) {
	return s.api.Replicas.GetReplica(ctx, &tarnv1.GetRequest{Id: id})
}

// mountpoint waits until the replica's data can be seen as a directory, and gives
// the path that leads there from here.
func (s *story) mountpoint(ctx context.Context, id string) (dir string, err error) {
	err = s.until(ctx, "replica "+id+" is mounted", func(ctx context.Context) (bool, error) {
		r, err := s.replica(ctx, id)
		if err != nil || r.GetObserved().GetMountpoint() == "" {
			return false, err
		}
		dir, err = s.cluster.See(s.nodeOf(r), r.GetObserved().GetMountpoint())
		return err == nil, err
	})
	return dir, err
}

// nodeOf is the node that holds a replica.
func (s *story) nodeOf(r *tarnv1.Replica) string {
	name, _, _ := strings.Cut(r.GetHost(), "@")
	return name
}

// DefaultDir is a fresh place for one telling.
func DefaultDir() (string, error) {
	dir, err := os.MkdirTemp("", "tarn-demo-")
	if err != nil {
		return "", fmt.Errorf("make state directory: %w", err)
	}
	return filepath.EvalSymlinks(dir)
}
