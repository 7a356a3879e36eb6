package lease

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dogFile is a watchdog's device. Anything else than a character device stands in for
// one in tests: it is written to, and has no properties to set.
type dogFile struct {
	file *os.File
}

// magicClose is the option of a watchdog that stops when 'V' is written before it is
// closed, and otherwise goes on.
const magicClose = 0x0100

var errDog = errors.New("not a watchdog that can be used")

func openDog(config WatchdogConfig) (dog, error) {
	// Non-blocking is for the pipe that a test puts there; devices do not heed it.
	file, err := os.OpenFile(config.Device, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	d := &dogFile{file}
	if err := d.prepare(config.Timeout); err != nil {
		return nil, errors.Join(err, d.Release(true))
	}
	return d, nil
}

func (d *dogFile) prepare(timeout time.Duration) error {
	info, err := d.file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return err
	}
	fd := int(d.file.Fd())
	can, err := unix.IoctlGetWatchdogInfo(fd)
	if err != nil {
		return fmt.Errorf("%w: %w", errDog, err)
	}
	if can.Options&magicClose == 0 {
		return fmt.Errorf("%w: it stops when its user dies", errDog)
	}
	seconds := int(timeout / time.Second)
	if err := unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, seconds); err != nil {
		return fmt.Errorf("%w: it does not take a timeout of %s: %w", errDog, timeout, err)
	}
	got, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
	if err != nil {
		return fmt.Errorf("%w: %w", errDog, err)
	}
	if got > seconds {
		return fmt.Errorf("%w: its timeout is %d s where %s was asked for; configure that one", errDog, got, timeout)
	}
	return nil
}

// Feed implements dog.
func (d *dogFile) Feed() error {
	_, err := d.file.WriteString("f")
	return err
}

// Release implements dog.
func (d *dogFile) Release(calm bool) error {
	var err error
	if calm {
		_, err = d.file.WriteString("V")
	}
	return errors.Join(err, d.file.Close())
}

// checkDog looks at a device without opening it, which would arm it.
func checkDog(config WatchdogConfig) error {
	info, err := os.Stat(config.Device)
	if err != nil {
		return fmt.Errorf("look at watchdog: %w", err)
	}
	if info.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	name := filepath.Base(config.Device)
	if name == "watchdog" {
		name = "watchdog0"
	}
	nowayout, err := os.ReadFile(filepath.Join("/sys/class/watchdog", name, "nowayout"))
	if err == nil && strings.TrimSpace(string(nowayout)) == "1" {
		return fmt.Errorf("%w: %s cannot be disarmed (nowayout): load its driver with nowayout=0", errDog, config.Device)
	}
	return nil
}
