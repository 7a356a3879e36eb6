package fabric

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// mtu of the devices: large, because every packet costs two system calls here.
const mtu = 9000

// device is the only way out of a network namespace.
type device struct {
	namespace *os.File
	packets   *os.File
}

// newDevice makes a namespace with one device that has the address, in a network of
// 256. home uses the namespace of the caller's thread instead of a new one.
func newDevice(address netip.Addr, home bool) (device, error) {
	var d device
	err := onThread(func() (err error) {
		if !home {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
		}
		if d.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return fmt.Errorf("find network namespace: %w", err)
		}
		d.packets, err = openTUN("tarn0")
		if err == nil {
			err = configure("tarn0", address)
		}
		return err
	})
	if err != nil {
		return d, errors.Join(err, d.close())
	}
	return d, nil
}

func (d device) close() error {
	var errs []error
	for _, f := range []*os.File{d.packets, d.namespace} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// openTUN makes a device of whole IP packets in the namespace of this thread.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make device %s: %w", name, err), unix.Close(fd))
	}
	// Only now: what is not attached yet cannot be waited for.
	return os.NewFile(uintptr(fd), name), nil
}

// configure sets the address and raises the device, and the loopback device too.
func configure(name string, address netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	set := func(device string, what uint, fill func(*unix.Ifreq) error) error {
		request, err := unix.NewIfreq(device)
		if err == nil {
			err = fill(request)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, what, request)
		}
		if err != nil {
			return fmt.Errorf("configure %s: %w", device, err)
		}
		return nil
	}
	up := func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }
	for _, step := range []func() error{
		func() error { return set("lo", unix.SIOCSIFFLAGS, up) },
		func() error {
			return set(name, unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil })
		},
		func() error {
			return set(name, unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(address.AsSlice()) })
		},
		func() error {
			return set(name, unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) })
		},
		func() error { return set(name, unix.SIOCSIFFLAGS, up) },
	} {
		if err := step(); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
	}
	return unix.Close(fd)
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: that is what ends the thread
		done <- f()
	}()
	return <-done
}
