package replicate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tarn/zfs/zfstest/realzfs"
)

// peer is another tool with datasets of its own. They are measured here and nowhere
// else; which are there, the benchmark says.
type peer struct {
	*plain
	round func(b *testing.B)
}

// peers are the tools of PATH that work on this ZFS.
func (r *rig) peers(n int) (list []peer) {
	for name, prepare := range map[string]func(*plain) (func(*testing.B), error){
		"syncoid": r.syncoid, "bzfs": r.bzfs, "zrepl": r.zrepl,
	} {
		if _, err := exec.LookPath(name); err != nil {
			r.b.Logf("without %s: %v", name, err)
			continue
		}
		p := r.plain(name, n)
		round, err := prepare(p)
		if err != nil {
			r.b.Logf("without %s: it does not work here: %v", name, err)
			continue
		}
		list = append(list, peer{p, round})
	}
	return list
}

// command is a peer that is one process a round and takes its snapshots itself.
func (r *rig) command(p *plain, args ...string) (func(*testing.B), error) {
	run := func() error {
		ctx, cancel := context.WithTimeout(r.b.Context(), 10*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		// syncoid's library gives a process 30 s to start, which may be too few on an
		// emulated processor.
		cmd.Env = append(os.Environ(), "PERL_CAPTURE_TINY_TIMEOUT=300")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out[max(0, len(out)-500):])
		}
		return nil
	}
	if err := run(); err != nil {
		return nil, err
	}
	if !p.arrivedAll(r.b) {
		return nil, errors.New("not everything arrived")
	}
	return func(b *testing.B) { bench(b, run()) }, nil
}

func (r *rig) syncoid(p *plain) (func(*testing.B), error) {
	if err := realzfs.Zfs("create", p.to); err != nil {
		return nil, err
	}
	return r.command(p, "syncoid", "--no-privilege-elevation", "--quiet", "-r", "--skip-parent", p.from, p.to)
}

func (r *rig) bzfs(p *plain) (func(*testing.B), error) {
	return r.command(p, "bzfs", p.from, p.to, "--recursive", "--skip-parent", "--create-src-snapshots")
}

// zreplConfig is a push into the same process, as many steps at once as the pipes.
const zreplConfig = `
global:
  logging: [{type: stdout, level: error, format: human}]
  control: {sockpath: %[1]s/control}
  serve: {stdinserver: {sockdir: %[1]s/stdin}}
jobs:
- name: sink
  type: sink
  root_fs: %[3]s
  serve: {type: local, listener_name: bench}
  recv: {placeholder: {encryption: "off"}}
- name: push
  type: push
  connect: {type: local, listener_name: bench, client_identity: a}
  filesystems: {"%[2]s<": true, "%[2]s": false}
  snapshotting: {type: manual}
  replication: {concurrency: {size_estimates: %[4]d, steps: %[4]d}}
  pruning:
    keep_sender: [{type: regex, regex: ".*"}]
    keep_receiver: [{type: regex, regex: ".*"}]
`

// zrepl runs as the daemon that it is; a round is a snapshot and a signal.
func (r *rig) zrepl(p *plain) (func(*testing.B), error) {
	if !realzfs.Kernel() {
		return nil, errors.New("it asks zfs-fuse's tools for what they do not have, again and again")
	}
	dir := r.b.TempDir()
	config := filepath.Join(dir, "zrepl.yml")
	text := fmt.Sprintf(zreplConfig, dir, p.from, p.to, pairs())
	if err := errors.Join(os.Chmod(dir, 0o700), os.WriteFile(config, []byte(text), 0o600), os.Mkdir(dir+"/stdin", 0o700), realzfs.Zfs("create", p.to)); err != nil {
		return nil, err
	}
	daemon := exec.Command("zrepl", "--config", config, "daemon")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		return nil, err
	}
	stop := sync.OnceFunc(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait()
	})
	r.b.Cleanup(stop)
	// Each look costs processor time that zrepl then lacks.
	look := 200 * time.Millisecond
	if os.Getenv("TARN_VM") != "" {
		look = 3 * time.Second
	}
	n := 0
	round := func() error {
		n++
		if err := realzfs.Zfs("snapshot", "-r", fmt.Sprintf("%s@bench%d", p.from, n)); err != nil {
			return err
		}
		wake := func() (string, error) {
			out, err := exec.Command("zrepl", "--config", config, "signal", "wakeup", "push").CombinedOutput()
			return string(out), err
		}
		ticker := time.NewTicker(look)
		defer ticker.Stop()
		for limit := time.Now().Add(10 * time.Minute); ; <-ticker.C {
			// A daemon that is still busy with the wake-up before says so; the look tells.
			out, err := wake()
			if p.arrivedAll(r.b) {
				return nil
			}
			if time.Now().After(limit) {
				said, _ := os.ReadFile(log.Name())
				return fmt.Errorf("zrepl did not get there: %w %s %s", err, out, said[:min(len(said), 2000)])
			}
		}
	}
	if err := round(); err != nil {
		stop() // it would go on trying, beside the others
		return nil, err
	}
	return func(b *testing.B) { bench(b, round()) }, nil
}
