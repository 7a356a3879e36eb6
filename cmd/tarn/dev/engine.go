package dev

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// What drives the pools of a cluster with storage zfs.
const (
	OpenZFS = "openzfs"  // the module of this machine's kernel
	ZFSFuse = "zfs-fuse" // a daemon per host of the cluster
)

// probe is what findEngine asks of the machine.
type probe struct {
	root     bool
	exists   func(path string) bool
	programs func(name string) bool
}

func machine() probe {
	return probe{
		root: os.Geteuid() == 0,
		exists: func(path string) bool {
			_, err := os.Stat(path)
			return err == nil
		},
		programs: func(name string) bool {
			_, err := exec.LookPath(name)
			return err == nil
		},
	}
}

var errNoZFS = errors.New("this machine has no ZFS that runs: install zfs-fuse (Debian: apt-get install zfs-fuse nfs-ganesha nfs-ganesha-vfs libnfs-utils), " +
	"or OpenZFS with its kernel module (Debian contrib: zfsutils-linux zfs-dkms); or use --storage dir")

// findEngine picks the ZFS of this machine: the kernel's if its module is loaded, else
// zfs-fuse. Its error names what to install or to do.
func findEngine(m probe) (string, error) {
	if !m.root {
		return "", errors.New("--storage zfs makes pools and mounts file systems: run it as root, or use --storage dir")
	}
	tools := m.programs("zfs") && m.programs("zpool")
	switch {
	case tools && m.exists("/dev/zfs"):
		return OpenZFS, nil
	case tools && m.programs("zfs-fuse") && m.exists("/dev/fuse"):
		return ZFSFuse, nil
	case tools && m.programs("zfs-fuse"):
		return "", errors.New("zfs-fuse needs /dev/fuse, which is not there: load the module fuse (modprobe fuse), or use --storage dir")
	case tools:
		return "", errors.New("the zfs commands are here but the kernel's module is not loaded: modprobe zfs; or use --storage dir")
	}
	return "", errNoZFS
}

// hasGanesha tells whether shares can be served over NFS without touching the
// machine's own server: each host of the cluster then runs an NFS-Ganesha on its address.
func hasGanesha(m probe) bool { return m.programs("ganesha.nfsd") }

// available refuses a storage that this machine does not have.
func available(storage string) (engine string, err error) {
	switch storage {
	case "dir":
		return "", nil
	case "zfs":
		return findEngine(machine())
	}
	return "", fmt.Errorf("--storage: this build has no engine %q: use dir or zfs", storage)
}
