package privsep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"tarn/agent/export"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// Exporter serves shares to clients, with root's rights.
type Exporter interface {
	Apply(ctx context.Context, mountpoint string, want *tarnv1.Exports, readOnly bool) ([]*tarnv1.ReportedExport, []*tarnv1.RuleError, error)
	Remove(ctx context.Context, mountpoint string) error
	List(ctx context.Context) ([]export.Export, error)
}

// Config of a Server.
type Config struct {
	Policy Policy
	// UID is the user that is served; nobody else is, but for root.
	UID uint32
	// Exporter; nil: there is none.
	Exporter Exporter
	// Deadman is the command that guards leases; nil: it is not started for anybody.
	Deadman []string
	// DeadmanOnly serves that verb and no other.
	DeadmanOnly bool
	// Command makes the process of a tool. nil: zfs.Command.
	Command func(tool string, args []string) (*exec.Cmd, error)
	Logger  *slog.Logger
}

// Server is the helper's side.
type Server struct {
	config Config
	log    *slog.Logger
	slots  chan struct{}
}

// maxCalls is how many calls may be open at once; streams take one each.
const maxCalls = 512

// NewServer checks nothing and starts nothing.
func NewServer(config Config) *Server {
	if config.Command == nil {
		config.Command = zfs.Command
	}
	s := &Server{config: config, log: config.Logger, slots: make(chan struct{}, maxCalls)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Listen opens the socket for the user that is served alone, in place of an earlier
// life's.
func Listen(ctx context.Context, path string, uid uint32) (*net.UnixListener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is there and no socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	// Whoever connects before this is asked who they are all the same.
	if err := errors.Join(os.Chmod(path, 0o600), os.Lchown(path, int(uid), -1)); err != nil {
		return nil, errors.Join(fmt.Errorf("give socket to its user: %w", err), listener.Close())
	}
	return listener.(*net.UnixListener), nil
}

// Run serves until ctx ends. It closes the listener. Processes that were started go on: the
// dead-man has to, and a stream that is sent ends with its files. One that is received ends.
func (s *Server) Run(ctx context.Context, listener *net.UnixListener) error {
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	var calls sync.WaitGroup
	defer calls.Wait()
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		select {
		case s.slots <- struct{}{}:
		default:
			s.log.Warn("too many calls at once", "limit", maxCalls)
			_ = conn.Close()
			continue
		}
		calls.Go(func() {
			defer func() { <-s.slots }()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			s.serve(ctx, conn)
		})
	}
}

// peer is who called, as the kernel says.
func peer(conn *net.UnixConn) (*syscall.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	return cred, errors.Join(err, credErr)
}

// serve is one call, from its caller's identity to its line in the log.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	who, err := peer(conn)
	if err != nil || who.Uid != s.config.UID && who.Uid != 0 {
		s.log.Warn("caller is not served", "peer", who, "err", err)
		return
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return
	}
	body, files, err := receive(conn)
	if err != nil {
		s.log.Warn("no call", "uid", who.Uid, "pid", who.Pid, "err", err)
		return
	}
	defer closeAll(files)
	asked, err := decodeCall(body)
	began, changes := time.Now(), true
	if err == nil {
		changes, err = s.handle(ctx, conn, asked, files)
	}
	if errors.Is(err, ErrRefused) || errors.Is(err, errMessage) {
		_ = send(conn, answer{Refused: err.Error()}) // it has hung up: nobody to tell
	} else if err != nil {
		_ = send(conn, answer{Failed: err.Error(), Class: classOf(err)})
	}
	s.audit(ctx, who, asked, changes, time.Since(began), err)
}

// audit writes the line of a call: what only looks is for debugging.
func (s *Server) audit(ctx context.Context, who *syscall.Ucred, asked call, changes bool, took time.Duration, err error) {
	level := slog.LevelInfo
	switch {
	case errors.Is(err, ErrRefused) || errors.Is(err, errMessage):
		level = slog.LevelWarn
	case !changes:
		level = slog.LevelDebug
	}
	line := strings.Join(asked.Args, " ")
	if len(line) > 1000 {
		line = line[:1000] + "..."
	}
	s.log.Log(ctx, level, "call", "uid", who.Uid, "pid", who.Pid, "verb", asked.Verb, "args", line, "took", took.Round(time.Millisecond), "err", err)
}

// handle does one call and tells the caller; errors are the caller's to be told.
func (s *Server) handle(ctx context.Context, conn *net.UnixConn, asked call, files []*os.File) (changes bool, err error) {
	if s.config.DeadmanOnly && asked.Verb != verbDeadman {
		return true, fmt.Errorf("%w: %.40q: this helper starts dead-men only", ErrRefused, asked.Verb)
	}
	switch asked.Verb {
	case toolZFS, toolZpool:
		return s.tool(ctx, conn, asked, files)
	case verbDeadman:
		return true, s.deadman(ctx, conn, asked, files)
	}
	a, changes, err := s.service(ctx, asked)
	if err == nil {
		a.Ended = true
		err = send(conn, a)
	}
	return changes, err
}

// tool runs zfs(8) or zpool(8) on the caller's files.
func (s *Server) tool(ctx context.Context, conn *net.UnixConn, asked call, files []*os.File) (changes bool, err error) {
	changes, err = s.config.Policy.Check(asked.Verb, asked.Args)
	if err != nil {
		return changes, err
	}
	if len(files) != 3 {
		return changes, fmt.Errorf("%w: %d files, three are needed", errMessage, len(files))
	}
	if token, ok := continued(asked.Args); ok && asked.Verb == toolZFS {
		if err := s.checkContinued(ctx, token); err != nil {
			return changes, err
		}
	}
	cmd, err := s.config.Command(asked.Verb, asked.Args)
	if err != nil {
		return changes, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	if asked.Verb == toolZFS {
		wait, cancel := context.WithTimeout(ctx, patience/2)
		defer cancel()
		after, err := zfs.Alone(wait, asked.Args)
		if err != nil {
			return changes, fmt.Errorf("wait for other mounts: %w", err)
		}
		defer after()
	}
	if asked.Verb == toolZFS && receives(asked.Args) {
		return changes, s.receiveScreened(ctx, conn, cmd, files)
	}
	return changes, follow(ctx, conn, cmd, files)
}

// deadman starts the guard of leases in a session of its own: it outlives everybody.
func (s *Server) deadman(ctx context.Context, conn *net.UnixConn, asked call, files []*os.File) error {
	switch {
	case len(s.config.Deadman) == 0:
		return fmt.Errorf("%w: no dead-man is configured", ErrRefused)
	case len(asked.Args) > 0 || len(files) != 2:
		return fmt.Errorf("%w: a dead-man has two files and no arguments", errMessage)
	}
	cmd := exec.Command(s.config.Deadman[0], s.config.Deadman[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return follow(ctx, conn, cmd, files)
}

// follow runs cmd, tells how it ended, and kills it and its kin when the caller says so.
// Neither the caller's end nor the helper's is its own.
func follow(ctx context.Context, conn *net.UnixConn, cmd *exec.Cmd, files []*os.File) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	closeAll(files) // the process has them: a reader of its output sees its end
	ended, gone := make(chan error, 1), make(chan struct{})
	go func() { ended <- cmd.Wait() }()
	if err := errors.Join(send(conn, answer{Started: true}), conn.SetReadDeadline(time.Time{})); err != nil {
		return fmt.Errorf("tell the caller: %w", err)
	}
	go func() {
		defer close(gone)
		for {
			body, more, err := receive(conn)
			closeAll(more)
			if err != nil {
				return
			}
			if c, err := decodeCall(body); err == nil && c.Kill {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // ESRCH: it has ended
			}
		}
	}()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		return nil
	}
	var exit *exec.ExitError
	a := answer{Ended: true}
	switch {
	case errors.As(err, &exit):
		a.Status = exit.String()
	case err != nil:
		a.Failed = err.Error()
	}
	_ = send(conn, a) // the caller may be gone
	_ = conn.CloseRead()
	<-gone
	return nil
}

// service is a verb without a process of its own.
func (s *Server) service(ctx context.Context, asked call) (a answer, changes bool, err error) {
	switch asked.Verb {
	case verbRemount:
		return a, true, s.remount(asked.Args)
	case verbUnmount:
		if err := one(s.config.Policy.Owned)(asked.Args); err != nil {
			return a, true, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return a, true, zfs.Unmount(asked.Args[0])
	case verbHolders:
		if err := device(asked.Args); err != nil {
			return a, false, err
		}
		a.Holders = zfs.Holders(asked.Args[0])
		return a, false, nil
	case verbApply, verbRemove, verbExported:
		if s.config.Exporter == nil {
			return a, true, fmt.Errorf("%w: no export server is configured", ErrRefused)
		}
		return s.exports(ctx, asked)
	}
	return a, true, fmt.Errorf("%w: no verb %.40q", ErrRefused, asked.Verb)
}

func (s *Server) remount(args []string) error {
	err := two(only("ro", "rw"), s.config.Policy.Owned)(args)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return zfs.Remount(args[1], args[0] == "ro")
}

// device allows "major:minor".
func device(args []string) error {
	err := one(func(d string) error {
		major, minor, ok := strings.Cut(d, ":")
		if !ok || amount(Policy{}, major) != nil || amount(Policy{}, minor) != nil {
			return fmt.Errorf("%.40q is no device number", d)
		}
		return nil
	})(args)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}
