package export

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func mustSever(t *testing.T, dir, mountpoint string) {
	t.Helper()
	begun := time.Now()
	for range 2 {
		if err := Sever(t.Context(), dir, mountpoint); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("severed twice in %s", time.Since(begun))
}

func TestSeverWithoutAgent(t *testing.T) {
	dir := t.TempDir()
	mustSever(t, dir, "/a") // nothing is known
	d := open(t, filepath.Join(dir, "exports.json"))
	apply(t, d, "/p/a", false)
	if err := Remember(dir, d); err != nil {
		t.Fatal(err)
	}
	mustSever(t, dir, "/p/a")
	if all, err := Remembered(dir); err != nil || len(all) != 1 || all[0].Mountpoint != "/p/a" {
		t.Errorf("remembered %v, %v", all, err)
	}
	for _, bad := range []string{"{", `{"server":"kernel"}`, `{"server":"ganesha"}`, `{"server":"what"}`} {
		if err := os.WriteFile(filepath.Join(dir, recordFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Sever(t.Context(), dir, "/p/a"); err == nil {
			t.Errorf("%s is good enough", bad)
		}
	}
}

// TestSeverWithADumbBus: a message bus that takes connections and never answers keeps
// nobody from ending the server.
func TestSeverWithADumbBus(t *testing.T) {
	layout := ganeshaLayout{shortDir(t)}
	ln, err := net.Listen("unix", layout.busSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	server := exec.Command("sh", "-c", "sleep 1000 & wait", layout.config())
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = server.Wait(); close(ended) }()
	t.Cleanup(func() { _ = syscall.Kill(-server.Process.Pid, syscall.SIGKILL); <-ended })
	if err := os.WriteFile(layout.pid(), []byte(strconv.Itoa(server.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	place := ganeshaPlace{Exports: layout.dir, Bus: layout.busAddress(), Dir: layout.dir}
	if err := place.severOrKill(t.Context(), "/p/a"); err != nil {
		t.Error(err)
	}
	if ganeshaAlive(layout) {
		t.Error("the server goes on")
	}
}

// TestExportfsThatDoesNotEnd: the dead-man has a file system to detach after it.
func TestExportfsThatDoesNotEnd(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nsetsid sleep 1000 &\necho $! >" + dir + "/left\n"
	if err := os.WriteFile(dir+"/exportfs", []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, _ := os.ReadFile(dir + "/left")
		if pid, err := strconv.Atoi(strings.TrimSpace(string(left))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	k := Kernel{config: KernelConfig{Command: []string{dir + "/exportfs"}}}
	ended := make(chan error, 1)
	go func() { ended <- k.exportfs(t.Context(), []string{"-f"}) }()
	select {
	case <-ended:
	case <-time.After(3 * commandTimeout):
		t.Error("it is waited for")
	}
}

func TestSeverFromTheKernel(t *testing.T) {
	k := newFakeServer(t)
	mustApply(t, k, aMount, exportsOf(shareFSID, rule("1", "10.0.0.1", rw)), false)
	if err := Remember(k.dir, k); err != nil {
		t.Fatal(err)
	}
	mustSever(t, k.dir, aMount)
	if have := k.read(t); have != "" {
		t.Errorf("etab is %q", have)
	}
	if all, _ := k.List(t.Context()); len(all) != 1 {
		t.Errorf("the agent's table changed: %v", all)
	}
	mustApply(t, k, aMount, exportsOf(shareFSID, rule("1", "10.0.0.1", rw)), false)
	if have := k.read(t); !strings.Contains(have, "10.0.0.1(") {
		t.Errorf("applied again, etab is %q", have)
	}
}

func TestSeverFromGanesha(t *testing.T) {
	dir := shortDir(t)
	server := freePort(t, "127.0.0.1")
	a, b := share(t, filepath.Join(dir, "a")), share(t, filepath.Join(dir, "b"))
	g := startGanesha(t, dir, server)
	mustApply(t, g, a, exportsOf(shareFSID, rule("w", "127.0.0.5", rw)), false)
	mustApply(t, g, b, exportsOf("0198f0aa-1111-7222-8333-444455557777", rule("w", "127.0.0.5", rw)), false)
	if err := Remember(dir, g); err != nil {
		t.Fatal(err)
	}
	client := newClient(t, 4, "127.0.0.5", server)
	open := client.open(a + "/large")
	mustSever(t, dir, a)
	if n, err := open.finish(); err == nil {
		t.Errorf("%d bytes were read to the end", n)
	}
	client.mustNotRead(a + "/hello")
	client.mustRead(b+"/hello", "hello\n")

	t.Log("a server that does not obey is killed; what was severed stays so when it is started again")
	pid := ganeshaPID(g.runner.layout)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	mustSever(t, dir, b)
	if took := time.Since(begun); took > 2*severPatience {
		t.Errorf("took %s", took)
	}
	if now := ganeshaPID(g.runner.layout); now == pid {
		t.Error("the server that does not obey is still there")
	}
	until(t, 30*time.Second, func() error { return g.runner.answers(t.Context()) })
	client.mustNotRead(a + "/hello")
	client.mustNotRead(b + "/hello")
	mustApply(t, g, b, exportsOf("0198f0aa-1111-7222-8333-444455557777", rule("w", "127.0.0.5", rw)), false)
	client.mustRead(b+"/hello", "hello\n")
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"server":"ganesha","ganesha":{"exports":"/e","bus":"system"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := decodeRecord(data); err == nil && r.Server == serverKernel && r.Kernel == nil {
			t.Fatal("kernel without its paths")
		}
	})
}

// Another server in the configuration takes over; the former one serves nothing more.
func TestSuccessorOfAnotherKind(t *testing.T) {
	k := newFakeServer(t)
	if err := Succeed(t.Context(), k.dir, k); err != nil {
		t.Fatal(err)
	}
	mustApply(t, k, aMount, exportsOf(shareFSID, rule("1", "10.0.0.1", rw)), false)
	if err := Succeed(t.Context(), k.dir, k); err != nil {
		t.Fatal(err)
	}
	if have := k.read(t); !strings.Contains(have, "10.0.0.1(") {
		t.Errorf("the same server again took its exports away: %q", have)
	}
	d := open(t, filepath.Join(k.dir, "exports.json"))
	if err := Succeed(t.Context(), k.dir, d); err != nil {
		t.Fatal(err)
	}
	if have := k.read(t); have != "" {
		t.Errorf("the former server exports %q", have)
	}
	if all, err := Remembered(k.dir); err != nil || len(all) != 0 {
		t.Errorf("remembered %v, %v", all, err)
	}
}

func TestSuccessorOfGanesha(t *testing.T) {
	dir := shortDir(t)
	server := freePort(t, "127.0.0.1")
	a := share(t, filepath.Join(dir, "a"))
	g := startGanesha(t, dir, server)
	if err := Succeed(t.Context(), dir, g); err != nil {
		t.Fatal(err)
	}
	mustApply(t, g, a, exportsOf(shareFSID, rule("w", "127.0.0.5", rw)), false)
	client := newClient(t, 4, "127.0.0.5", server)
	client.mustRead(a+"/hello", "hello\n")
	if err := Succeed(t.Context(), dir, open(t, filepath.Join(dir, "other.json"))); err != nil {
		t.Fatal(err)
	}
	client.mustNotRead(a + "/hello") // whether or not somebody starts it again
}
