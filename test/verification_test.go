package test

import (
	"os"
	"strings"
	"testing"
)

// TestVerificationIsNeverOff (Consul CVE-2018-19653): the switch that turns Go's own
// verification off stands only where another one is put in its place, and no
// configuration, flag or variable has a name that could do the same.
func TestVerificationIsNeverOff(t *testing.T) {
	for _, path := range goFiles(t) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		inside := strings.HasPrefix(path, "../controlplane/identity/")
		for n, line := range strings.Split(string(text), "\n") {
			if strings.Contains(line, "InsecureSkipVerify") && !inside {
				t.Errorf("%s:%d: %s", path, n+1, strings.TrimSpace(line))
			}
			for _, word := range []string{"no-verify", "skip-verify", "insecure_", "--insecure", "SetUnencryptedHTTP2"} {
				if strings.Contains(line, word) {
					t.Errorf("%s:%d: %s", path, n+1, strings.TrimSpace(line))
				}
			}
		}
		if inside && strings.Count(string(text), "InsecureSkipVerify:") > strings.Count(string(text), "VerifyConnection:") {
			t.Errorf("%s: a verification is off and nothing is in its place", path)
		}
	}
}
