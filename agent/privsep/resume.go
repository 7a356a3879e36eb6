package privsep

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"tarn/zfs"
)

// continued gives the token of a send that goes on where one was cut.
func continued(args []string) (token string, ok bool) {
	i := slices.Index(args, "-t")
	if len(args) == 0 || args[0] != "send" || i < 0 || i+1 >= len(args) {
		return "", false
	}
	return args[i+1], true
}

// checkContinued looks at what a resume token is about, which anybody can write: zfs send -t
// takes its name for a hint only, and sends whatever snapshot of the pool has its GUID. So no
// snapshot may have it that is not below the base. If none has it at all, zfs says so.
func (s *Server) checkContinued(ctx context.Context, token string) error {
	info, err := zfs.ParseToken(token)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	pool, _, _ := strings.Cut(info.ToName, "/")
	list, err := s.snapshotsOf(ctx, pool)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(list) {
		guid, name, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), "\t")
		if guid != info.ToGUID.String() {
			continue
		}
		if err := s.config.Policy.snapshot(name); err != nil {
			return fmt.Errorf("%w: resume token: its snapshot is %.300q: %w", ErrRefused, name, err)
		}
	}
	return nil
}

// snapshotsOf lists GUIDs and names.
func (s *Server) snapshotsOf(ctx context.Context, pool string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience/2)
	defer cancel()
	cmd, err := s.config.Command(toolZFS, []string{"list", "-Hp", "-t", "snapshot", "-o", "guid,name", "-r", pool})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })()
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("list snapshots of %s: %w", pool, err)
	}
	return out.Bytes(), nil
}
