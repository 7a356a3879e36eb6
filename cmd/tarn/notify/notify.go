package notify

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"
)

// Manager is the service manager that started this process, if one did. The zero value
// is none. It is a value; safe for concurrent use.
type Manager struct {
	socket string // "": nobody listens
	// watchdog is the silence after which the manager ends this process; 0: never.
	watchdog time.Duration
}

// FromEnv finds the manager in an environment: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID.
// A number that cannot be read is an error: whoever set it expects to be told.
func FromEnv(env map[string]string) (Manager, error) {
	m := Manager{socket: env["NOTIFY_SOCKET"]}
	if pid := env["WATCHDOG_PID"]; pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return m, nil // meant for whoever started this process
	}
	text := env["WATCHDOG_USEC"]
	if m.socket == "" || text == "" {
		return m, nil
	}
	usec, err := strconv.ParseInt(text, 10, 64)
	if err != nil || usec <= 0 || usec > int64(24*time.Hour/time.Microsecond) {
		return Manager{}, fmt.Errorf("WATCHDOG_USEC is %q, microseconds of at most a day are needed", text)
	}
	m.watchdog = time.Duration(usec) * time.Microsecond
	return m, nil
}

// Ready says that the service is up: what waits for it may start.
func (m Manager) Ready() error { return m.tell("READY=1") }

func (m Manager) tell(state string) error {
	if m.socket == "" {
		return nil
	}
	// A leading @ is a name without a file, to the kernel as to package net.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("reach the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell the service manager %s: %w", state, err)
	}
	return nil
}

const (
	// look is how often a service is asked until it is alive for the first time.
	look = 50 * time.Millisecond
	// rounds are how often it is asked within the manager's patience after that. Each
	// answer has to be there before the next question, so that two may come late.
	rounds = 3
	// silent is how often it is asked when nobody waits for it: for the log.
	silent = time.Minute
)

// Watch tells the manager that the service is up as soon as alive gives nil, and that it
// lives each time that it does so again: often enough, but never without asking. alive
// has until its context ends to prove something; an error or none in time is logged, and
// as long as that lasts the manager hears nothing. Watch returns nil when ctx ends, and an
// error if the manager cannot be reached.
func (m Manager) Watch(ctx context.Context, alive func(context.Context) error, log *slog.Logger) error {
	if m.socket == "" {
		return nil
	}
	every := silent
	if m.watchdog > 0 {
		every = m.watchdog / rounds
	}
	if err := m.await(ctx, alive, every); err != nil || ctx.Err() != nil {
		return err
	}
	if err := m.Ready(); err != nil {
		return err
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return m.tell("STOPPING=1")
		case <-ticker.C:
		}
		err := ask(ctx, alive, every)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			log.Error("no proof of life; the service manager is not told of any", "err", err)
		default:
			if err := m.tell("WATCHDOG=1"); err != nil {
				return err
			}
		}
	}
}

// await returns when the service has proved once that it lives, or with ctx.
func (m Manager) await(ctx context.Context, alive func(context.Context) error, patience time.Duration) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for ask(ctx, alive, patience) != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
	return nil
}

func ask(ctx context.Context, alive func(context.Context) error, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return alive(ctx)
}
