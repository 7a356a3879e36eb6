package lease

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
)

// Target is a dataset that may have to be made unreachable.
type Target struct {
	// Engine that the dataset is of; "" is the one of plain directories, which was
	// the only one when the first helpers were written.
	Engine string `json:"engine,omitempty"`
	// PoolDir is the pool's directory on this host, absolute; "" for engines that find
	// a pool by its name.
	PoolDir string `json:"pool_dir,omitempty"`
	// Dataset is the full name, pool first.
	Dataset string `json:"dataset"`
}

// Armed is a target with the end of the right to write it, an instant of BootTime.
type Armed struct {
	Target
	Deadline time.Duration `json:"deadline"`
}

// order goes to the helper, one JSON object per line. Arm raises deadlines,
// Forget removes targets; both at once are applied in this order.
type order struct {
	Sequence uint64   `json:"seq"`
	Arm      []Armed  `json:"arm,omitempty"`
	Forget   []Target `json:"forget,omitempty"`
	// HandOver asks for everything that is armed, after which the helper ends.
	HandOver bool `json:"hand_over,omitempty"`
}

// answer comes from the helper: what it has taken up, inherited, or fenced.
type answer struct {
	Sequence uint64  `json:"seq,omitempty"`
	Fenced   *Target `json:"fenced,omitempty"`
	Error    string  `json:"error,omitempty"`
	// Armed is what a successor asked for, or, told to the agent, what was inherited.
	Armed []Armed `json:"armed,omitempty"`
	// Backed says how the backstop does, when that has changed.
	Backed *backed `json:"backed,omitempty"`
}

// backed is the state of a helper's backstop; no trouble is well.
type backed struct {
	Trouble string `json:"trouble,omitempty"`
}

// maxLine bounds one message: room for 10,000 targets.
const maxLine = 4 << 20

var errMessage = errors.New("bad message")

// decodeOrder reads one line. It refuses relative pool directories and names
// that would leave the pool: the helper acts on nothing else.
func decodeOrder(line []byte) (order, error) {
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return order{}, fmt.Errorf("%w: %w", errMessage, err)
	}
	for _, a := range o.Arm {
		if err := a.check(); err != nil {
			return order{}, err
		}
		if a.Deadline <= 0 {
			return order{}, fmt.Errorf("%w: deadline %d of %s", errMessage, a.Deadline, a.Dataset)
		}
	}
	for _, t := range o.Forget {
		if err := t.check(); err != nil {
			return order{}, err
		}
	}
	return o, nil
}

func (t Target) check() error {
	if strings.ContainsFunc(t.Engine, func(r rune) bool { return r < 'a' || r > 'z' }) {
		return fmt.Errorf("%w: engine %q", errMessage, t.Engine)
	}
	if (t.Engine == "" || t.PoolDir != "") && (!filepath.IsAbs(t.PoolDir) || filepath.Clean(t.PoolDir) != t.PoolDir) {
		return fmt.Errorf("%w: pool directory %q is not a clean absolute path", errMessage, t.PoolDir)
	}
	for part := range strings.SplitSeq(t.Dataset, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\x00\\@#") {
			return fmt.Errorf("%w: dataset name %q", errMessage, t.Dataset)
		}
	}
	return nil
}

func lines(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	return s
}

func writeLine(w io.Writer, message any) error {
	data, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if _, err := w.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}
