package privsep

import (
	"bytes"
	"context"
	"fmt"
	"os"
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
	return s.onlyBelow(ctx, "resume token", dataset, info.ToGUID)
}

// checkBase looks at the base of an increment, GUID 0 for none: zfs-fuse puts one for a dataset
// that is not there into whatever dataset of the pool has its base. OpenZFS does not.
func (s *Server) checkBase(ctx context.Context, target string, base zfs.GUID) error {
	if base == 0 || kernel() {
		return nil
	}
	dataset, _, _ := strings.Cut(target, "@")
	return s.onlyBelow(ctx, "increment", dataset, base)
}

// kernel tells OpenZFS from zfs-fuse.
func kernel() bool {
	_, err := os.Stat("/dev/zfs")
	return err == nil
}

// onlyBelow refuses what names a snapshot of a pool by its GUID only, if zfs may take it for
// one that is not below the base.
func (s *Server) onlyBelow(ctx context.Context, what, dataset string, guid zfs.GUID) error {
	// What is not there any more lists nothing.
	if list, err := s.snapshotsOf(ctx, dataset, "-d", "1"); err == nil && len(named(list, guid)) > 0 {
		return nil
	}
	pool, _, _ := strings.Cut(dataset, "/")
	list, err := s.snapshotsOf(ctx, pool)
	if err != nil {
		return err
	}
	for _, name := range named(list, guid) {
		if err := s.config.Policy.snapshot(name); err != nil {
			return fmt.Errorf("%w: %s: its snapshot is %.300q: %w", ErrRefused, what, name, err)
		}
	}
	return nil
}

// named are the snapshots of a list that have a GUID.
func named(list []byte, wanted zfs.GUID) (names []string) {
	for line := range bytes.Lines(list) {
		guid, name, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), "\t")
		if guid == wanted.String() && strings.Contains(name, "@") {
			names = append(names, name)
		}
	}
	return names
}

// snapshotsOf lists GUIDs and names of the snapshots of a dataset and what is below it, as far
// as depth says.
func (s *Server) snapshotsOf(ctx context.Context, dataset string, depth ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience/2)
	defer cancel()
	args := append([]string{"list", "-Hp", "-t", "snapshot", "-o", "guid,name", "-r"}, depth...)
	if !kernel() { // zfs-fuse, where list shows no exact numbers, and get what is no snapshot
		args = append([]string{"get", "-Hp", "-o", "value,name", "-r"}, append(depth, "guid")...)
	}
	cmd, err := s.config.Command(toolZFS, append(args, dataset))
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
		return nil, fmt.Errorf("list snapshots of %s: %w", dataset, err)
	}
	return out.Bytes(), nil
}
