package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// spawn starts the process in a session of its own, so that neither the agent's
// death nor its terminal's signals reach it.
func spawn(config DeadmanConfig) (*session, io.ReadCloser, error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start dead-man: %w", err)
	}
	answers, said, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start dead-man: %w", err), theirs.Close(), ours.Close())
	}
	start := config.Start
	if start == nil {
		start = config.child
	}
	process, err := start(theirs, said)
	_, _ = theirs.Close(), said.Close() // the helper's now
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start dead-man: %w", err), ours.Close(), answers.Close())
	}
	return &session{
		process: process, orders: ours, done: make(chan struct{}), stuck: make(chan struct{}), waiters: map[uint64]chan struct{}{},
	}, answers, nil
}

// child starts Command.
func (c DeadmanConfig) child(orders, answers *os.File) (Process, error) {
	cmd := exec.Command(c.Command[0], c.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = orders, answers, c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return child{cmd}, nil
}

// child is a helper that is a process of this one's.
type child struct{ cmd *exec.Cmd }

func (c child) Wait() error { return c.cmd.Wait() }

func (c child) Kill() { _ = c.cmd.Process.Kill() }

func (s *session) expect(sequence uint64) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan struct{})
	s.waiters[sequence] = c
	return c
}

// tell writes one order, which may take as long as patience; the channel is closed when it
// is confirmed. A helper that does not read in time is stuck.
func (s *session) tell(o order, patience time.Duration) (<-chan struct{}, error) {
	confirmed := s.expect(o.Sequence)
	if err := s.orders.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return nil, fmt.Errorf("tell dead-man: %w", err)
	}
	if err := writeLine(s.orders, o); err != nil {
		s.fail()
		return nil, fmt.Errorf("tell dead-man: %w", err)
	}
	return confirmed, nil
}

// listen takes the helper's answers until it ends, then reaps it.
func (s *session) listen(answers io.ReadCloser, inherited func([]Armed), fenced func(Target, error), backed func(trouble string)) {
	scanner := lines(answers)
	for scanner.Scan() {
		var a answer
		if json.Unmarshal(scanner.Bytes(), &a) != nil {
			continue
		}
		if len(a.Armed) > 0 {
			inherited(a.Armed)
		}
		s.confirm(a.Sequence)
		if a.Fenced != nil {
			fenced(*a.Fenced, a.err())
		}
		if a.Backed != nil {
			backed(a.Backed.Trouble)
		}
	}
	// How it ended does not matter: it must not end at all.
	_ = s.process.Wait()
	_, _ = s.orders.Close(), answers.Close()
	close(s.done)
}

func (a answer) err() error {
	if a.Error == "" {
		return nil
	}
	return errors.New(a.Error)
}

func (s *session) confirm(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.waiters[sequence]; ok {
		close(c)
		delete(s.waiters, sequence)
	}
}

func (s *session) ready(ctx context.Context, confirmed <-chan struct{}, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-confirmed:
		return nil
	case <-s.done:
		return ErrNoHelper
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("new dead-man is silent for %s", patience)
	}
}

func (s *session) fail() { s.once.Do(func() { close(s.stuck) }) }

// kill ends a helper that has been replaced, and waits no longer than patience: one that
// hangs in the kernel, in an unmount say, ends when the kernel lets go of it. Its successor
// has to be watched meanwhile. Nil is no session.
func (s *session) kill(patience time.Duration) {
	if s == nil {
		return
	}
	select {
	case <-s.done:
		return
	default:
	}
	s.process.Kill()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
	}
}
