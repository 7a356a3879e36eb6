package zfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	stderrLimit = 32 << 10  // of which the last bytes are kept
	stdoutLimit = 256 << 20 // a listing of millions of snapshots; more is a defect
	killGrace   = 5 * time.Second
)

// Call is one process that was run, for an Observer.
type Call struct {
	Op       string // "list", "receive", ...; "zpool list" for zpool(8)
	Began    time.Time
	Duration time.Duration
	Err      error // nil, or an *Error
}

// invocation is one run of a tool. Its arguments are put together from validated
// names only.
type invocation struct {
	op     string
	object string
	args   []string
	pool   bool // zpool(8) instead of zfs(8)
}

// runner starts the tools: absolute paths, no shell, the C locale, a process group
// of its own for each, bounded output, a deadline. Safe for concurrent use.
type runner struct {
	zfs, zpool string
	deadline   time.Duration
	observe    func(Call)
	stuck      stuckTable
	launcher   Launcher // nil: processes of this one
	turns      *turns   // of all but streams; nil: no bound
}

// environment is all that the tools see of the agent's. The path is for the helpers
// that they call themselves (mount, umount).
func environment() []string {
	return []string{"LC_ALL=C", "LANG=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TZ=UTC"}
}

// command builds the process of inv, not yet started.
func (r *runner) command(inv invocation) (*exec.Cmd, error) {
	if err := inv.harmless(); err != nil {
		return nil, err
	}
	path := r.zfs
	if inv.pool {
		path = r.zpool
	}
	cmd := exec.Command(path, inv.args...)
	cmd.Env, cmd.Dir = environment(), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = killGrace // for helpers that outlive the tool and keep its output open
	return cmd, nil
}

// harmless refuses what tarn never does, whatever the caller's mistake: recursive or
// forced destroys and rollbacks, forced receives, property streams.
func (inv invocation) harmless() error {
	if len(inv.args) == 0 {
		return nil
	}
	verb, rest := inv.args[0], inv.args[1:]
	forbidden := ""
	switch verb {
	case "destroy", "rollback":
		forbidden = "rRfd"
	case "receive":
		forbidden = "Fde"
	case "send":
		forbidden = "RpbhI"
	case "export", "import", "add", "remove", "clear":
		return inv.refuse(ErrInvalid, "the engine never runs zpool "+verb)
	}
	for _, arg := range rest {
		flag := strings.HasPrefix(arg, "-") && forbidden != ""
		if flag && (strings.HasPrefix(arg, "--") || strings.ContainsAny(arg, forbidden)) {
			return inv.refuse(ErrInvalid, fmt.Sprintf("zfs %s %s is never run", verb, arg))
		}
		if strings.ContainsRune(arg, 0) {
			return inv.refuse(ErrInvalid, "argument with a NUL byte")
		}
	}
	return nil
}

func (inv invocation) refuse(class error, text string) *Error {
	return &Error{Op: inv.op, Object: inv.object, Class: class, Text: text}
}

// output runs inv to its end and gives its standard output.
func (r *runner) output(ctx context.Context, inv invocation) ([]byte, error) {
	out, _, err := r.outputs(ctx, inv)
	return out, err
}

// outputs gives what the tool wrote, also when it failed.
func (r *runner) outputs(ctx context.Context, inv invocation) (stdout []byte, stderr string, err error) {
	if err := r.stuck.check(inv); err != nil {
		return nil, "", err
	}
	cmd, err := r.command(inv)
	if err != nil {
		return nil, "", err
	}
	give, err := r.turns.take(ctx, inv, r.deadline)
	if err != nil {
		return nil, "", err
	}
	defer give()
	if err := r.stuck.check(inv); err != nil { // by now: others hung meanwhile
		return nil, "", err
	}
	out, errs := &boundedBuffer{limit: stdoutLimit}, &tail{limit: stderrLimit} // both locked: a process may be left behind
	cmd.Stdout, cmd.Stderr = out, errs
	ctx, cancel := context.WithTimeout(ctx, r.deadline)
	defer cancel()
	began := time.Now()
	err = r.runToEnd(ctx, cmd, inv)
	stdout, overrun := out.result()
	switch {
	case overrun:
		err = inv.refuse(ErrUnclassified, fmt.Sprintf("answer above %d bytes", stdoutLimit))
	case err != nil:
		said := errs.String()
		if strings.TrimSpace(said) == "" { // zfs-fuse reports internal errors on standard output
			said = string(stdout[:min(len(stdout), textLimit)])
		}
		err = r.explain(ctx, inv, began, err, said)
	}
	r.note(inv, began, err)
	return stdout, errs.String(), err
}

// runToEnd starts cmd and waits for it or for the end of ctx.
func (r *runner) runToEnd(ctx context.Context, cmd *exec.Cmd, inv invocation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	after := func() {}
	if r.launcher == nil && !inv.pool && !isAlone(ctx) {
		var err error
		if after, err = Alone(ctx, inv.args); err != nil {
			return err
		}
	}
	p, err := r.begin(inv, cmd)
	if err != nil {
		after()
		return err
	}
	go func() { // also when it is left behind
		<-p.done
		after()
	}()
	return r.stuck.await(ctx, p)
}

func (r *runner) note(inv invocation, began time.Time, err error) {
	if r.observe == nil {
		return
	}
	op := inv.op
	if inv.pool {
		op = "zpool " + op
	}
	r.observe(Call{Op: op, Began: began, Duration: time.Since(began), Err: err})
}

// explain turns the end of a process into a classified error.
func (r *runner) explain(ctx context.Context, inv invocation, began time.Time, err error, stderr string) error {
	var exit *exec.ExitError
	var status ExitStatus
	var told *Error
	switch {
	case errors.Is(err, context.DeadlineExceeded) && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return r.hung(inv, began)
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return &Error{Op: inv.op, Object: inv.object, Class: err, Text: firstLines(stderr)}
	case errors.As(err, &told):
		return told
	case errors.As(err, &status):
		return classify(inv.op, inv.object, stderr, string(status))
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOEXEC):
		return &Error{Op: inv.op, Object: inv.object, Class: ErrToolMissing, Text: err.Error(), Next: nextToolMissing}
	case errors.As(err, &exit):
		return classify(inv.op, inv.object, stderr, exit.String())
	default:
		return &Error{Op: inv.op, Object: inv.object, Class: ErrUnclassified, Text: err.Error()}
	}
}

func (r *runner) hung(inv invocation, began time.Time) error {
	return &Error{
		Op: inv.op, Object: inv.object, Class: ErrHung,
		Text: fmt.Sprintf("%s gave no answer in %v and was killed", inv.line(), time.Since(began).Round(time.Second)),
		Next: fmt.Sprintf("look at zpool status %s and the kernel's log: a suspended pool, a dead disk or an overloaded host", poolOf(inv.object)),
	}
}

// line is the command for messages, with a bound.
func (inv invocation) line() string {
	tool := "zfs "
	if inv.pool {
		tool = "zpool "
	}
	s := tool + strings.Join(inv.args, " ")
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return s
}

// poolOf is the pool of a dataset, snapshot or bookmark name.
func poolOf(name string) string {
	if i := strings.IndexAny(name, "/@#"); i >= 0 {
		return name[:i]
	}
	return name
}

// boundedBuffer keeps output up to a limit and fails the writer beyond it.
type boundedBuffer struct {
	limit int

	mu      sync.Mutex
	buf     bytes.Buffer
	overrun bool
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len()+len(p) > b.limit {
		b.overrun = true
		return 0, errors.New("output above the limit")
	}
	return b.buf.Write(p)
}

func (b *boundedBuffer) result() (out []byte, overrun bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Bytes(), b.overrun
}

// tail keeps the last bytes that are written to it.
type tail struct {
	limit int

	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - t.limit; extra > 0 {
		t.buf = slices.Delete(t.buf, 0, extra)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
