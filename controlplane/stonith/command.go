package stonith

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Command says how to switch a host off and how to see that it is.
type Command struct {
	// Off is program and arguments. In arguments {name}, {id} and {address} are the
	// host's. It has to exit with 0; that alone proves nothing.
	Off []string
	// Status asks for the host's state in the same form. The host is off when it exits
	// with OffExit.
	Status  []string
	OffExit int
	// Timeout bounds both together, 1 s to 10 min. Status is repeated until then.
	Timeout time.Duration
}

// Host is what a command may name.
type Host struct{ ID, Name, Address string }

// Validate checks that the programs are absolute paths, the placeholders known and
// the time sensible.
func (c Command) Validate() error {
	var problems []error
	for _, argv := range []struct {
		key  string
		args []string
	}{{"off", c.Off}, {"status", c.Status}} {
		if len(argv.args) == 0 || !filepath.IsAbs(argv.args[0]) {
			problems = append(problems, fmt.Errorf("%s: a program with its absolute path is needed, then its arguments", argv.key))
			continue
		}
		for _, a := range argv.args[1:] {
			if _, err := fill(a, Host{ID: "x", Name: "x", Address: "x"}); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", argv.key, err))
			}
		}
	}
	if c.OffExit < 0 || c.OffExit > 255 {
		problems = append(problems, fmt.Errorf("off_exit is %d, 0 to 255 are allowed", c.OffExit))
	}
	if c.Timeout < time.Second || c.Timeout > 10*time.Minute {
		problems = append(problems, fmt.Errorf("timeout is %s, 1s to 10m are allowed", c.Timeout))
	}
	return errors.Join(problems...)
}

// pollEvery is the pause between two looks at the status.
const pollEvery = time.Second

// Run switches the host off and returns, for the record, what proved that it is off.
// An error means that it may be on, whatever was done.
func (c Command) Run(ctx context.Context, host Host) (proof string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if code, said, err := run(ctx, c.Off, host); err != nil || code != 0 {
		return "", failure(c.Off[0], code, said, err)
	}
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		code, said, err := run(ctx, c.Status, host)
		if err == nil && code == c.OffExit {
			return fmt.Sprintf("stonith(%s): %s switched it off, %s then exited with %d", host.Name, c.Off[0], c.Status[0], code), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("host %s is not seen to be off within %s: %w", host.Name, c.Timeout, failure(c.Status[0], code, said, err))
		case <-ticker.C:
		}
	}
}

func failure(program string, code int, said string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return fmt.Errorf("%s exited with %d: %s", program, code, said)
}

// maxSaid bounds what of a program's output is kept: its end says why it failed.
const maxSaid = 300

// run returns the exit code and the end of what the program said. err is set when
// there is no exit code: it did not start, or was ended.
func run(ctx context.Context, argv []string, host Host) (code int, said string, err error) {
	args := make([]string, len(argv)-1)
	for i, a := range argv[1:] {
		if args[i], err = fill(a, host); err != nil {
			return 0, "", err
		}
	}
	out := &tail{}
	cmd := exec.CommandContext(ctx, argv[0], args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, out, out
	// A group of its own, so that what it starts ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		return 0, out.text(), ctx.Err()
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode(), out.text(), nil
	}
	return 0, out.text(), err
}

var (
	errPlaceholder = errors.New("placeholders are {name}, {id} and {address}")
	errOption      = errors.New("a host's name would be taken for an option")
)

// fill puts the host into an argument. What hosts say of themselves never becomes an
// option by itself.
func fill(arg string, host Host) (string, error) {
	filled := strings.NewReplacer("{name}", host.Name, "{id}", host.ID, "{address}", host.Address).Replace(arg)
	if filled != arg && strings.HasPrefix(filled, "-") && !strings.HasPrefix(arg, "-") {
		return "", fmt.Errorf("%q: %w", filled, errOption)
	}
	rest := strings.NewReplacer("{name}", "", "{id}", "", "{address}", "").Replace(arg)
	if strings.ContainsAny(rest, "{}") {
		return "", fmt.Errorf("argument %q: %w", arg, errPlaceholder)
	}
	return filled, nil
}

// tail keeps the end of what is written to it.
type tail struct{ end []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p...)
	if extra := len(t.end) - maxSaid; extra > 0 {
		t.end = append(t.end[:0], t.end[extra:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	text := string(bytes.TrimSpace(bytes.ToValidUTF8(t.end, []byte("?"))))
	if text == "" {
		return "it said nothing"
	}
	return strings.Join(strings.Fields(text), " ")
}
