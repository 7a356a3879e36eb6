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
// takes its name for a hint only, and sends a snapshot of the pool that has its GUID, the one
// that is nearest to the name (guid_to_name in OpenZFS). If the dataset named has it, and is
// the caller's, that is the one. Otherwise none may have it that is not below the base, which
// a list of the whole pool tells. If none has it at all, zfs says so.
func (s *Server) checkContinued(ctx context.Context, token string) error {
	info, err := zfs.ParseToken(token)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := s.config.Policy.snapshot(info.ToName); err != nil {
		return fmt.Errorf("%w: resume token: %w", ErrRefused, err)
	}
	dataset, _, _ := strings.Cut(info.ToName, "@")
	pool, _, _ := strings.Cut(dataset, "/")
	// What is not there any more lists nothing.
	if list, err := s.snapshotsOf(ctx, "-d", "1", dataset); err == nil && len(named(list, info.ToGUID)) > 0 {
		return nil
	}
	list, err := s.snapshotsOf(ctx, "-r", pool)
	if err != nil {
		return err
	}
	for _, name := range named(list, info.ToGUID) {
		if err := s.config.Policy.snapshot(name); err != nil {
			return fmt.Errorf("%w: resume token: its snapshot is %.300q: %w", ErrRefused, name, err)
		}
	}
	return nil
}

// named are the snapshots of a list that have a GUID.
func named(list []byte, wanted zfs.GUID) (names []string) {
	for line := range bytes.Lines(list) {
		guid, name, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), "\t")
		if guid == wanted.String() {
			names = append(names, name)
		}
	}
	return names
}

// snapshotsOf lists GUIDs and names of what the last arguments of zfs list say.
func (s *Server) snapshotsOf(ctx context.Context, of ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience/2)
	defer cancel()
	cmd, err := s.config.Command(toolZFS, append([]string{"list", "-Hp", "-t", "snapshot", "-o", "guid,name"}, of...))
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
		return nil, fmt.Errorf("list snapshots of %s: %w", of[len(of)-1], err)
	}
	return out.Bytes(), nil
}
