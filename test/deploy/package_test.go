package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const tree = "../.." // of the whole repository

// run runs a program to its end and gives what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// needs skips a test for what the machine lacks, and says so; with TARN_REQUIRE_ALL=1
// what test/packages installs must be there.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("TARN_REQUIRE_ALL") == "1" && os.Geteuid() == 0 {
				t.Fatalf("TARN_REQUIRE_ALL: %v", err)
			}
			t.Skipf("skipped: %v", err)
		}
	}
}

// built is where the packages are put; TestMain removes it.
var built string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if built, err = os.MkdirTemp("", "tarn-deploy-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(built) //nolint:errcheck // of files that nobody else uses
		return m.Run()
	}())
}

// debs builds the package once per version.
func debs(t *testing.T, versions ...string) []string {
	t.Helper()
	needs(t, "make", "go", "dpkg-deb")
	var files []string
	for _, v := range versions {
		dir := filepath.Join(built, v)
		if found, _ := filepath.Glob(filepath.Join(dir, "*.deb")); len(found) == 1 {
			files = append(files, found[0])
			continue
		}
		run(t, "make", "-C", tree, "deb", "DIST="+dir, "DEB_VERSION="+v)
		found, err := filepath.Glob(filepath.Join(dir, "tarn_"+v+"_*.deb"))
		if err != nil || len(found) != 1 {
			t.Fatalf("packages of version %s: %v, %v", v, found, err)
		}
		files = append(files, found[0])
	}
	return files
}

// The package has the program, the units, the identities, the documents and nothing that
// runs with rights it does not need.
func TestPackageContents(t *testing.T) {
	deb := debs(t, "1.0")[0]
	entries := map[string]string{} // mode and owner by path
	for line := range strings.Lines(run(t, "dpkg-deb", "--contents", deb)) {
		f := strings.Fields(line)
		entries[strings.TrimPrefix(f[5], ".")] = f[0] + " " + f[1]
	}
	want := map[string]string{
		"/usr/bin/tarn":                  "-rwxr-xr-x root/root",
		"/usr/lib/sysusers.d/tarn.conf":  "-rw-r--r-- root/root",
		"/usr/lib/tmpfiles.d/tarn.conf":  "-rw-r--r-- root/root",
		"/etc/tarn/":                     "drwxr-xr-x root/root",
		"/usr/share/tarn/tarn.rules.yml": "-rw-r--r-- root/root",
		"/usr/share/doc/tarn/config.md":  "-rw-r--r-- root/root",
	}
	for _, dir := range []struct{ from, to string }{
		{"deploy/systemd", "/usr/lib/systemd/system/"}, {"deploy/examples", "/usr/share/doc/tarn/examples/"},
	} {
		files, err := os.ReadDir(filepath.Join(tree, dir.from))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			want[dir.to+f.Name()] = "-rw-r--r-- root/root"
		}
	}
	for path, mode := range want {
		if entries[path] != mode {
			t.Errorf("%s is %q in the package, want %q", path, entries[path], mode)
		}
	}
	for path, mode := range entries {
		if strings.ContainsAny(mode[:10], "sStT") || mode[8] == 'w' || !strings.HasSuffix(mode, " root/root") {
			t.Errorf("%s has mode %s", path, mode)
		}
	}
	control := run(t, "dpkg-deb", "--info", deb)
	for _, field := range []string{"Package: tarn\n", "Version: 1.0\n", "Depends: systemd"} {
		if !strings.Contains(control, field) {
			t.Errorf("control file lacks %q:\n%s", field, control)
		}
	}
}

// Every example is a configuration that its daemon takes.
func TestExamplesAreValid(t *testing.T) {
	dir := t.TempDir()
	run(t, "dpkg-deb", "--extract", debs(t, "1.0")[0], dir)
	for _, kind := range []string{"controlplane", "agent", "client"} {
		out := run(t, filepath.Join(dir, "usr/bin/tarn"), "config", "check", filepath.Join(dir, "usr/share/doc/tarn/examples", kind+".toml"))
		if !strings.Contains(out, fmt.Sprintf("a valid %s configuration", kind)) {
			t.Errorf("%s.toml: %s", kind, out)
		}
	}
}
