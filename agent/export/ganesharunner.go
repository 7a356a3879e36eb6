package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tarn/zfs/durable"
)

// ganeshaRunner keeps the two processes of the agent's own Ganesha alive: the
// server, and the message bus over which it is told what to serve. A process is
// known by its id, which is in a file, and by the configuration file in its
// command line; so it is found again after the agent was killed, and none is
// taken for another that got its id.
type ganeshaRunner struct {
	layout  ganeshaLayout
	server  []string
	bus     []string
	config  string
	busConf string
	log     *slog.Logger
	// retract takes away what is not to be served by now.
	retract func(context.Context) error
}

const (
	// ganeshaStart bounds the time from start to the first answer.
	ganeshaStart = 20 * time.Second
	// ganeshaStop bounds an orderly end.
	ganeshaStop = 5 * time.Second
	// ganeshaLook is how often it is looked whether the processes live.
	ganeshaLook = 200 * time.Millisecond
	// ganeshaPause is between two starts.
	ganeshaPause = time.Second
)

func newGaneshaRunner(layout ganeshaLayout, config GaneshaConfig, retract func(context.Context) error) *ganeshaRunner {
	server, bus := config.Command, config.BusCommand
	if len(server) == 0 {
		server = []string{"ganesha.nfsd"}
	}
	if len(bus) == 0 {
		bus = []string{"dbus-daemon"}
	}
	return &ganeshaRunner{
		layout: layout, log: config.Logger, retract: retract,
		server: append(slices.Clone(server), "-F", "-f", layout.config(), "-p", layout.pidFile(), "-L", layout.log()),
		bus:    append(slices.Clone(bus), "--nofork", "--nosyslog", "--config-file="+layout.busConfig()),
		config: ganeshaConfig(layout, config.Listen), busConf: ganeshaBus(layout, os.Getuid()),
	}
}

// run starts what does not live, and starts it again when it dies.
func (r *ganeshaRunner) run(ctx context.Context) error {
	defer r.stop()
	for {
		err := r.keep(ctx)
		if ctx.Err() != nil {
			return nil
		}
		r.log.Error("NFS-Ganesha has to be started again", "err", err, "log", r.layout.log())
		r.stop()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(ganeshaPause):
		}
	}
}

// keep returns when one of the processes has ended or cannot be started.
func (r *ganeshaRunner) keep(ctx context.Context) error {
	if err := r.write(); err != nil {
		return err
	}
	var retracted error
	if busAlive(r.layout) && ganeshaAlive(r.layout) {
		r.log.Info("NFS-Ganesha of an earlier run goes on")
		if retracted = r.retract(ctx); retracted != nil {
			r.log.Error("NFS-Ganesha may serve what is not mounted; this is tried again", "err", retracted)
		}
	} else {
		// One without the other is of no use: Ganesha joins its bus once, at its start.
		r.stop()
		if err := r.retract(ctx); err != nil {
			return err
		}
		if err := r.start(ctx); err != nil {
			return err
		}
	}
	ticker := time.NewTicker(ganeshaLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		switch {
		case !ganeshaAlive(r.layout):
			return errors.New("the server has ended")
		case !busAlive(r.layout):
			return errors.New("its message bus has ended")
		case retracted != nil:
			retracted = r.retract(ctx)
		}
	}
}

func (r *ganeshaRunner) write() error {
	for _, dir := range []string{r.layout.dir, r.layout.exports(), r.layout.recovery()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("prepare NFS-Ganesha: %w", err)
		}
	}
	err := durable.Replace(r.layout.config(), []byte(r.config))
	if err == nil {
		err = durable.Replace(r.layout.busConfig(), []byte(r.busConf))
	}
	if err != nil {
		return fmt.Errorf("prepare NFS-Ganesha: %w", err)
	}
	return nil
}

func (r *ganeshaRunner) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ganeshaStart)
	defer cancel()
	if err := os.RemoveAll(r.layout.busSocket()); err != nil {
		return err
	}
	if err := r.spawn(r.bus, nil, r.layout.busPID()); err != nil {
		return err
	}
	if err := r.until(ctx, func(ctx context.Context) error { return r.busAnswers(ctx) }); err != nil {
		return err
	}
	if err := r.spawn(r.server, []string{"DBUS_SYSTEM_BUS_ADDRESS=" + r.layout.busAddress()}, r.layout.pid()); err != nil {
		return err
	}
	if err := r.until(ctx, r.answers); err != nil {
		return err
	}
	r.log.Info("NFS-Ganesha was started")
	return nil
}

// gate waits for a line, and becomes the command that its arguments are, under the same
// process id; without one it ends. Nothing of the arguments is read by the shell.
const gate = `read -r go && exec "$@" </dev/null`

// spawn starts a process in a session of its own, so that neither the agent's
// death nor its terminal's signals reach it, and reaps it when it ends. Its id is written
// down before it begins: whoever takes an export away finds it, however early it is.
func (r *ganeshaRunner) spawn(command, env []string, pidFile string) error {
	program, err := exec.LookPath(command[0])
	if err != nil {
		return fmt.Errorf("start %s (Debian packages nfs-ganesha, nfs-ganesha-vfs, dbus): %w", command[0], err)
	}
	out, err := os.OpenFile(r.layout.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", command[0], err)
	}
	defer out.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", gate, "sh", program}, command[1:]...)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = r.layout.dir, append(os.Environ(), env...), out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	begin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", command[0], err)
	}
	err = durable.Replace(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)))
	if err == nil {
		_, err = begin.Write([]byte("go\n"))
	}
	if err = errors.Join(err, begin.Close()); err != nil {
		err = errors.Join(err, cmd.Process.Kill()) // nobody would find it again
	}
	go func() { _ = cmd.Wait() }() // that it ended is seen by looking
	return err
}

// until asks again and again, until it gets nil or ctx ends.
func (r *ganeshaRunner) until(ctx context.Context, ask func(context.Context) error) error {
	ticker := time.NewTicker(ganeshaLook / 4)
	defer ticker.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("NFS-Ganesha does not answer, see %s: %w", r.layout.log(), err)
		case <-ticker.C:
		}
	}
}

func (r *ganeshaRunner) busAnswers(ctx context.Context) error {
	b, err := dialBus(ctx, r.layout.busAddress())
	if err != nil {
		return err
	}
	b.close()
	return nil
}

func (r *ganeshaRunner) answers(ctx context.Context) error {
	b, err := dialBus(ctx, r.layout.busAddress())
	if err != nil {
		return err
	}
	defer b.close()
	_, err = b.ids(ctx)
	return err
}

// stop ends the server, then its bus, in order if they let it.
func (r *ganeshaRunner) stop() {
	for _, alive := range []func() int{
		func() int { return ganeshaPID(r.layout) }, func() int { return busPID(r.layout) },
	} {
		if err := end(alive); err != nil {
			r.log.Error("NFS-Ganesha could not be stopped", "err", err)
		}
	}
}

// end stops the process that pid answers, until it answers 0.
func end(pid func() int) error {
	id := pid()
	if id == 0 {
		return nil
	}
	if err := syscall.Kill(id, syscall.SIGTERM); err != nil {
		return gone(id, err)
	}
	deadline := time.NewTimer(ganeshaStop)
	defer deadline.Stop()
	ticker := time.NewTicker(ganeshaLook / 10)
	defer ticker.Stop()
	for {
		select {
		case <-deadline.C:
			return kill(pid)
		case <-ticker.C:
			if pid() == 0 {
				return nil
			}
		}
	}
}

// gone takes it for no error that a process has ended by itself.
func gone(pid int, err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return fmt.Errorf("end process %d: %w", pid, err)
}

// kill ends the process that pid answers at once, and waits until it is gone.
func kill(pid func() int) error {
	id := pid()
	if id == 0 {
		return nil
	}
	if err := syscall.Kill(id, syscall.SIGKILL); err != nil {
		return gone(id, err)
	}
	deadline := time.NewTimer(ganeshaStop)
	defer deadline.Stop()
	ticker := time.NewTicker(ganeshaLook / 10)
	defer ticker.Stop()
	for {
		select {
		case <-deadline.C:
			return fmt.Errorf("process %d does not end", id)
		case <-ticker.C:
			if pid() == 0 {
				return nil
			}
		}
	}
}

func ganeshaAlive(l ganeshaLayout) bool { return ganeshaPID(l) != 0 }

func busAlive(l ganeshaLayout) bool { return busPID(l) != 0 }

func ganeshaPID(l ganeshaLayout) int { return processOf(l.pid(), l.config()) }

func busPID(l ganeshaLayout) int { return processOf(l.busPID(), "--config-file="+l.busConfig()) }

// processOf returns the id in a file if a process of this id has the argument in
// its command line, else 0. A process that has ended and waits to be reaped has none.
func processOf(file, argument string) int {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0
	}
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !slices.ContainsFunc(bytes.Split(line, []byte{0}), func(a []byte) bool { return string(a) == argument }) {
		return 0
	}
	return pid
}
