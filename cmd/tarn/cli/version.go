package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	version, revision := buildInfo()
	if a.Output != "table" {
		return printMachine(a, a.stdout, map[string]string{
			"version": version, "revision": revision, "os": runtime.GOOS, "arch": runtime.GOARCH, "go": runtime.Version(),
		})
	}
	fmt.Fprintf(a.stdout, "tarn %s %s %s/%s %s\n", version, label(revision, "-"), runtime.GOOS, runtime.GOARCH, runtime.Version())
	return nil
}

// buildInfo is the module's version and the commit that it was built from.
func buildInfo() (version, revision string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value[:min(12, len(s.Value))]
		}
	}
	return info.Main.Version, revision
}
