package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// process is what is remembered of a started node. The start time tells it from
// a later process that got the same id.
type process struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"` // clock ticks after boot
}

// procState reads start time and state letter of a process; an error when there is none.
func procState(pid int) (started uint64, state byte, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The command in parentheses may hold anything; fields are counted after it.
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("read process %d: %d fields", pid, len(fields))
	}
	started, err = strconv.ParseUint(fields[19], 10, 64)
	return started, fields[0][0], err
}

// state is "running", "stopped" or "" for a process that is gone.
func (p process) state() string {
	if p.PID <= 0 {
		return ""
	}
	started, letter, err := procState(p.PID)
	if err != nil || started != p.Started {
		return ""
	}
	switch letter {
	case 'Z', 'X':
		return ""
	case 'T', 't':
		return "stopped"
	}
	return "running"
}

func (p process) signal(sig syscall.Signal) error {
	if p.state() == "" {
		return os.ErrProcessDone
	}
	return syscall.Kill(p.PID, sig)
}

func (c *Cluster) runFile(node string) string { return filepath.Join(c.dir, "run", node+".json") }

func (c *Cluster) process(node string) process {
	var p process
	data, err := os.ReadFile(c.runFile(node))
	if errors.Is(err, fs.ErrNotExist) || json.Unmarshal(data, &p) != nil {
		return process{}
	}
	return p
}

// spawn starts a node detached from this terminal and remembers it.
func (c *Cluster) spawn(n Node) error {
	log, err := os.OpenFile(c.LogFile(n.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", n.Name, err)
	}
	defer log.Close()
	program := c.program(n)
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = c.dir
	// Its own session: Ctrl-C reaches the one that decides the order, not everybody.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if n.Kind == Storage {
		err = apart(cmd.Start)
	} else {
		err = c.begin(n, cmd)
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	started, _, err := procState(cmd.Process.Pid)
	if err != nil {
		return errors.Join(fmt.Errorf("look at %s: %w", n.Name, err), cmd.Process.Kill(), cmd.Wait())
	}
	c.reap(cmd)
	return writeJSON(c.runFile(n.Name), process{PID: cmd.Process.Pid, Started: started})
}

// reap collects the exit status of a child, so that it does not stay a zombie.
// What became of it is read from /proc, the same for children and others.
func (c *Cluster) reap(cmd *exec.Cmd) {
	c.children.Go(func() { _ = cmd.Wait() })
}
