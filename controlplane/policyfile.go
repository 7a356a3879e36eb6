package controlplane

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"tarn/controlplane/api"
	"tarn/controlplane/policy"
)

// CheckPolicy reads a policy.yaml as a node would. Every problem is in the error.
func CheckPolicy(path string) error {
	_, err := policy.Load(path, api.Actions())
	return err
}

// PolicyActions are what a policy.yaml can decide on, with the built-in rules.
func PolicyActions() []policy.Action { return api.Actions() }

// policyCheck is how often the file is looked at.
const policyCheck = 2 * time.Second

// policyFile is the policy that a node follows: the built-in one, or that of a file,
// which is taken up again when it changes. While it is wrong, the last good one holds.
type policyFile struct {
	path    string
	current atomic.Pointer[policy.Policy]
	stamp   fileStamp
}

type fileStamp struct {
	modified time.Time
	size     int64
}

// loadPolicy reads the file, if there is one; a wrong one is an error.
func loadPolicy(path string) (*policyFile, error) {
	f := &policyFile{path: path}
	_, err := f.load()
	return f, err
}

// Policy implements api.Policies.
func (f *policyFile) Policy() *policy.Policy { return f.current.Load() }

// load reads the file if it is another one than before.
func (f *policyFile) load() (changed bool, err error) {
	if f.path == "" {
		p, err := policy.Default(api.Actions())
		f.current.Store(p)
		return false, err
	}
	info, err := os.Stat(f.path)
	if err != nil {
		return false, fmt.Errorf("read policy: %w", err)
	}
	stamp := fileStamp{info.ModTime(), info.Size()}
	if stamp == f.stamp {
		return false, nil
	}
	f.stamp = stamp // a wrong file is complained of once, until it changes
	p, err := policy.Load(f.path, api.Actions())
	if err != nil {
		return false, err
	}
	f.current.Store(p)
	return true, nil
}

// followPolicy takes up a changed file until ctx ends.
func (n *Node) followPolicy(ctx context.Context) error {
	if n.policies.path == "" {
		<-ctx.Done()
		return nil
	}
	n.notePolicy()
	ticker := time.NewTicker(policyCheck)
	defer ticker.Stop()
	complained := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		changed, err := n.policies.load()
		if err != nil && err.Error() != complained {
			complained = err.Error()
			n.log.Error("the policy file is wrong; the rules before it still hold", "err", err)
		}
		if changed {
			complained = ""
			n.notePolicy()
		}
	}
}

func (n *Node) notePolicy() {
	n.log.Info("policy loaded", "file", n.policies.path, "sha256", n.policies.Policy().Sum())
	if err := n.audit.Policy("sha256 " + n.policies.Policy().Sum()); err != nil {
		n.log.Error("the policy could not be noted in the audit file", "err", err)
	}
}
