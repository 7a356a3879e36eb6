package lease

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// DeadmanMain is the whole of the helper process: it reads orders from standard
// input, answers on standard output and hands over through dir. Signals that end
// other processes do not end it; the end of its input does, at the deadlines.
func DeadmanMain(dir string, fence func(Target) error, logger *slog.Logger) error {
	// SIGPIPE too: the agent's death closes whatever the helper writes to.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	if err := shield(); err != nil {
		logger.Debug("dead-man runs without special protection", "err", err)
	}
	out := newReplies(os.Stdout)
	defer out.close()
	return RunDeadman(context.Background(), HelperConfig{
		In: os.Stdin, Out: out, Dir: dir, Fence: fence, Backstop: configured(dir, logger), Logger: logger,
	})
}

// oomSpare is the score that makes the kernel's out-of-memory killer pass by.
const oomSpare = "-1000"

func spareFromOOM() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomSpare), 0o600); err != nil {
		return fmt.Errorf("ask to be spared by the out-of-memory killer: %w", err)
	}
	return nil
}
