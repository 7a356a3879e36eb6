package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"tarn/zfs/durable"
)

// Backstop is what ends clients' reach when the helper itself cannot any more: it is
// told of the rights to write and lets them run out by itself (reliability 3.5).
type Backstop interface {
	// Guard says at now that rights are held, of which the first ends at first and the
	// last at last; armed is false when there is nothing to guard. It is called after
	// each change and again after pause; 0 is when something changes. It must not block.
	// An error says that the backstop does not work at the moment; errNotYet, that it will
	// in a moment if nothing goes wrong: until then nobody is to count on it.
	Guard(now, first, last time.Duration, armed bool) (pause time.Duration, err error)
	// Lead is how long before the first end the helper must have fenced, so that a
	// backstop that then still runs does not strike.
	Lead() time.Duration
	// Leave ends the guard. clean tells that nothing is armed; else what was set runs out.
	Leave(clean bool)
}

// errNotYet is no trouble yet.
var errNotYet = errors.New("is being set")

// Backing says which backstop a host's helper has: at most one of its fields is set.
type Backing struct {
	Watchdog *WatchdogConfig `json:"watchdog,omitempty"`
	Filter   *FilterConfig   `json:"filter,omitempty"`
}

// backingFile is where the helper finds its Backing in the agent's directory: it may be
// started by a successor, or by hand.
const backingFile = "backing.json"

// Configure writes the Backing of the helpers of the agent's directory dir. It takes
// effect with the next helper.
func Configure(dir string, b Backing) error {
	data, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encode backing: %w", err)
	}
	if err := durable.Replace(filepath.Join(dir, backingFile), append(data, '\n')); err != nil {
		return fmt.Errorf("configure dead-man: %w", err)
	}
	return nil
}

// configured opens the backstop of dir; nil if none was configured. What cannot be read
// is a backstop that does not work: the helper guards all the same.
func configured(dir string, logger *slog.Logger) Backstop {
	data, err := os.ReadFile(filepath.Join(dir, backingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	b, err := decodeBacking(data, err)
	switch {
	case err != nil:
		return broken{err}
	case b.Watchdog != nil:
		return newWatchdog(*b.Watchdog, openDog, logger)
	case b.Filter != nil:
		return newFilter(*b.Filter, logger)
	}
	return nil
}

func decodeBacking(data []byte, err error) (Backing, error) {
	if err != nil {
		return Backing{}, fmt.Errorf("read backing: %w", err)
	}
	var b Backing
	if err := json.Unmarshal(data, &b); err != nil {
		return Backing{}, fmt.Errorf("decode backing: %w", err)
	}
	if b.Watchdog != nil {
		err = b.Watchdog.Validate()
	}
	if b.Filter != nil {
		err = errors.Join(err, b.Filter.Validate())
	}
	return b, err
}

// broken is a backstop that is not there.
type broken struct{ err error }

// Guard implements Backstop.
func (b broken) Guard(_, _, _ time.Duration, _ bool) (time.Duration, error) { return 0, b.err }

// Lead implements Backstop.
func (broken) Lead() time.Duration { return 0 }

// Leave implements Backstop.
func (broken) Leave(bool) {}
