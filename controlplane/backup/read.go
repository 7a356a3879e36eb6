package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"tarn/raftfsm"
)

var (
	// ErrDamaged means that a file is no backup, or not what was once written.
	ErrDamaged = errors.New("backup is damaged")
	// ErrNewer means that a newer version of tarn wrote the file.
	ErrNewer = errors.New("backup is of a newer version of tarn")
)

// maxHead bounds the two lines before the state, in bytes.
const maxHead = 1 << 20

// Summary is what Check found.
type Summary struct {
	Info
	Format int `json:"format"`
	// Size of the file and of the state in it, in bytes.
	Size      int64 `json:"size"`
	StateSize int64 `json:"state_size"`
	// Records in the state, by kind.
	Records map[string]int `json:"records"`

	stateAt int64
}

// Check reads the whole of a backup and says what it holds. It gives ErrNewer for
// what this version cannot read, and ErrDamaged for everything else that is wrong.
func Check(f io.ReadSeeker) (Summary, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Summary{}, fmt.Errorf("read backup: %w", err)
	}
	s, err := readHead(f, size)
	if err != nil {
		return Summary{}, err
	}
	if err := checkSum(f, size); err != nil {
		return Summary{}, err
	}
	state, err := State(f, s)
	if err != nil {
		return Summary{}, err
	}
	inner, err := raftfsm.InspectSnapshot(state)
	switch {
	case errors.Is(err, raftfsm.ErrNewer):
		return Summary{}, fmt.Errorf("%w: %w", ErrNewer, err)
	case err != nil:
		return Summary{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	case inner.Index != s.Index || inner.ClusterID != s.Cluster || inner.Hash != s.Hash:
		return Summary{}, fmt.Errorf("%w: its head is of index %d of cluster %q, its state of index %d of %q",
			ErrDamaged, s.Index, s.Cluster, inner.Index, inner.ClusterID)
	}
	s.Records = inner.Records
	return s, nil
}

// State returns the state in a file that Check has accepted, in raftfsm's snapshot
// format. It reads f from then on.
func State(f io.ReadSeeker, s Summary) (io.Reader, error) {
	if _, err := f.Seek(s.stateAt, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	return io.LimitReader(f, s.StateSize), nil
}

// readHead reads the first two lines. The format comes before anything else is
// believed, so that a newer file is called newer and not damaged.
func readHead(f io.ReadSeeker, size int64) (Summary, error) {
	s := Summary{Size: size}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return s, fmt.Errorf("read backup: %w", err)
	}
	head, err := io.ReadAll(io.LimitReader(f, maxHead))
	if err != nil {
		return s, fmt.Errorf("read backup: %w", err)
	}
	first, rest, found := bytes.Cut(head, []byte("\n"))
	number, ours := strings.CutPrefix(string(first), magic)
	if !found || !ours {
		return s, fmt.Errorf("%w: it does not begin like one: `tarn operator snapshot save` makes them", ErrDamaged)
	}
	if s.Format, err = strconv.Atoi(number); err != nil || s.Format < 1 {
		return s, fmt.Errorf("%w: format %q", ErrDamaged, number)
	}
	if s.Format > Format {
		return s, fmt.Errorf("%w: its format is %d, this program reads up to %d: use the version that wrote it or a newer one", ErrNewer, s.Format, Format)
	}
	second, _, found := bytes.Cut(rest, []byte("\n"))
	if !found {
		return s, fmt.Errorf("%w: it is cut off in its head", ErrDamaged)
	}
	if err := json.Unmarshal(second, &s.Info); err != nil {
		return s, fmt.Errorf("%w: read its head: %w", ErrDamaged, err)
	}
	s.stateAt = int64(len(first) + len(second) + 2)
	if s.StateSize = size - s.stateAt - sha256.Size; s.StateSize < 0 {
		return s, fmt.Errorf("%w: it is cut off", ErrDamaged)
	}
	return s, nil
}

func checkSum(f io.ReadSeeker, size int64) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, size-sha256.Size); err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	var trailer [sha256.Size]byte
	if _, err := io.ReadFull(f, trailer[:]); err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	if !bytes.Equal(trailer[:], sum.Sum(nil)) {
		return fmt.Errorf("%w: its checksum is wrong; take another copy", ErrDamaged)
	}
	return nil
}
