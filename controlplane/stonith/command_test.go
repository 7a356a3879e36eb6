package stonith

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// outlet is a power switch made of files: off removes "on", status looks for it.
type outlet struct{ dir string }

func newOutlet(t *testing.T) outlet {
	t.Helper()
	o := outlet{t.TempDir()}
	o.script(t, "off", `rm -f "`+o.dir+`/on-$1"; echo "switched $1"`)
	o.script(t, "status", `test -e "`+o.dir+`/on-$1" && exit 0; exit 2`)
	o.on(t, "nas-1")
	return o
}

func (o outlet) script(t *testing.T, name, body string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}

func (o outlet) on(t *testing.T, host string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, "on-"+host), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (o outlet) isOn(host string) bool {
	_, err := os.Stat(filepath.Join(o.dir, "on-"+host))
	return err == nil
}

func (o outlet) command() Command {
	return Command{
		Off: []string{filepath.Join(o.dir, "off"), "{name}"}, Status: []string{filepath.Join(o.dir, "status"), "{name}"},
		OffExit: 2, Timeout: 20 * time.Second,
	}
}

func TestOffIsProvedByTheStatus(t *testing.T) {
	o := newOutlet(t)
	proof, err := o.command().Run(t.Context(), Host{Name: "nas-1"})
	if err != nil || !strings.HasPrefix(proof, "stonith(nas-1)") || o.isOn("nas-1") {
		t.Errorf("proof %q, %v, on: %v", proof, err, o.isOn("nas-1"))
	}
}

func TestOffThatOnlySaysSoProvesNothing(t *testing.T) {
	o := newOutlet(t)
	o.script(t, "off", "echo done")
	c := o.command()
	c.Timeout = time.Second
	if proof, err := c.Run(t.Context(), Host{Name: "nas-1"}); err == nil || proof != "" {
		t.Errorf("a host that is on was proved off: %q", proof)
	}
	o.script(t, "off", "echo no such outlet >&2; exit 3")
	_, err := o.command().Run(t.Context(), Host{Name: "nas-1"})
	if err == nil || !strings.Contains(err.Error(), "exited with 3: no such outlet") {
		t.Errorf("got %v", err)
	}
	c = o.command()
	c.Off[0] = filepath.Join(o.dir, "missing")
	if _, err := c.Run(t.Context(), Host{Name: "nas-1"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestStatusMayTakeItsTime(t *testing.T) {
	o := newOutlet(t)
	o.script(t, "off", "true")
	o.script(t, "status", `n=$(cat "`+o.dir+`/n" 2>/dev/null || echo 0); echo $((n+1)) > "`+o.dir+`/n"; test $n -gt 0 && exit 2; exit 0`)
	if _, err := o.command().Run(t.Context(), Host{Name: "nas-1"}); err != nil {
		t.Error(err)
	}
}

// TestNothingOutlivesTheDeadline: a program that hangs, with a child of its own that
// holds the output open, is ended.
func TestNothingOutlivesTheDeadline(t *testing.T) {
	o := newOutlet(t)
	o.script(t, "off", "sleep 1000 & sleep 1000")
	c := o.command()
	c.Timeout = time.Second
	started := time.Now()
	_, err := c.Run(t.Context(), Host{Name: "nas-1"})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > 15*time.Second {
		t.Errorf("after %s: %v", time.Since(started), err)
	}
}

func TestArguments(t *testing.T) {
	host := Host{ID: "0197", Name: "nas-1", Address: "10.0.0.1:7410"}
	for arg, want := range map[string]string{
		"--ip={name}-ipmi": "--ip=nas-1-ipmi", "{id}/{address}": "0197/10.0.0.1:7410", "plain": "plain",
	} {
		if got, err := fill(arg, host); err != nil || got != want {
			t.Errorf("%s: %q, %v", arg, got, err)
		}
	}
	if _, err := fill("{name}", Host{Name: "--help"}); !errors.Is(err, errOption) {
		t.Errorf("a name became an option: %v", err)
	}
	if _, err := fill("{password}", host); !errors.Is(err, errPlaceholder) {
		t.Errorf("an unknown placeholder passed: %v", err)
	}
}

func TestValidate(t *testing.T) {
	good := Command{Off: []string{"/bin/true"}, Status: []string{"/bin/true"}, Timeout: time.Second}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, c := range map[string]Command{
		"off: a program":    {Off: []string{"poweroff"}, Status: good.Status, Timeout: time.Second},
		"status: a program": {Off: good.Off, Timeout: time.Second},
		"timeout":           {Off: good.Off, Status: good.Status},
		"off_exit":          {Off: good.Off, Status: good.Status, Timeout: time.Second, OffExit: 256},
		"placeholders":      {Off: []string{"/bin/true", "{host}"}, Status: good.Status, Timeout: time.Second},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
