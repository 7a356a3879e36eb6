package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
)

// Where a machine says which it is: a number drawn at its start, and one of its
// installation, which two containers under one kernel do not share.
const (
	bootIDFile    = "/proc/sys/kernel/random/boot_id"
	machineIDFile = "/etc/machine-id"
)

// thisMachine tells two machines with the same disk apart, and the lives of one; "" where
// nothing tells. Other programs' secrets may be made of a machine id (machine-id(5)): it
// leaves the host as a hash only.
func thisMachine() string {
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	installed, err := os.ReadFile(machineIDFile)
	if err != nil {
		installed = nil // the boot alone
	}
	sum := sha256.Sum256([]byte("tarn machine\n" + strings.TrimSpace(string(boot)) + "\n" + strings.TrimSpace(string(installed))))
	return hex.EncodeToString(sum[:16])
}
