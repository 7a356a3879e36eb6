package privsep

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/zfs"
	"tarn/zfs/zfstest"
)

// shell stands for the tools: its one argument is a script.
func shell(script string) func(string, []string) (*exec.Cmd, error) {
	return func(string, []string) (*exec.Cmd, error) {
		cmd := exec.Command("sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		return cmd, nil
	}
}

func helper(t *testing.T, script string) Client {
	return serve(t, Config{Policy: policy(), UID: uint32(os.Getuid()), Command: shell(script), Logger: testLog(t)})
}

// launch runs a command that is allowed on pipes, and gives what it wrote.
func launch(t *testing.T, c Client, input string) (stdout, stderr string, l zfs.Launched, err error) {
	t.Helper()
	in, feed, err1 := os.Pipe()
	out, outW, err2 := os.Pipe()
	errs, errsW, err3 := os.Pipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	l, err = c.Launch("zfs", []string{"list", "tank"}, in, outW, errsW)
	for _, f := range []*os.File{in, outW, errsW} {
		_ = f.Close()
	}
	if err != nil {
		return "", "", nil, err
	}
	go func() { _, _ = feed.WriteString(input); _ = feed.Close() }()
	a, _ := io.ReadAll(out)
	b, _ := io.ReadAll(errs)
	return string(a), string(b), l, nil
}

func TestStreamsAndStatusComeThrough(t *testing.T) {
	c := helper(t, `cat; echo bad >&2; exit 3`)
	big := strings.Repeat("0123456789", 100_000)
	out, errs, l, err := launch(t, c, big)
	if err != nil || out != big || errs != "bad\n" {
		t.Fatalf("%d bytes, %q, %v", len(out), errs, err)
	}
	var status zfs.ExitStatus
	if err := l.Wait(); !errors.As(err, &status) || string(status) != "exit status 3" {
		t.Errorf("ended with %v", err)
	}
}

// Kill ends the tool and what it started, which would hold the pipes open for ever.
func TestKill(t *testing.T) {
	c := helper(t, `sleep 1000 & sleep 1000`)
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Launch("zfs", []string{"list", "tank"}, nil, w, w)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	l.Kill()
	if err := l.Wait(); err == nil {
		t.Error("ended well")
	}
	if _, err := io.ReadAll(out); err != nil { // both have let go of it
		t.Error(err)
	}
}

func TestRefusalsAreTold(t *testing.T) {
	c := helper(t, `echo never`)
	_, err := c.Launch("zfs", []string{"destroy", "-r", "tank/tarn/a"}, nil, os.Stderr, os.Stderr)
	if !errors.Is(err, zfs.ErrPermission) || !strings.Contains(err.Error(), "refused by the helper") {
		t.Errorf("%v", err)
	}
	if _, err := c.StartDeadman(os.Stdin, os.Stderr); !errors.Is(err, zfs.ErrPermission) {
		t.Errorf("dead-man: %v", err)
	}
	if err := c.Remove(t.Context(), "/tank/tarn/a"); !errors.Is(err, zfs.ErrPermission) {
		t.Errorf("exports: %v", err)
	}
	if err := c.Unmount(t.Context(), "tank/home"); !errors.Is(err, zfs.ErrPermission) {
		t.Errorf("unmount of what is not tarn's: %v", err)
	}
	if err := c.Unmount(t.Context(), "tank/tarn/none"); !errors.Is(err, zfs.ErrNotMounted) {
		t.Errorf("unmount of what is not mounted: %v", err)
	}
	if err := c.Remount(t.Context(), "tank/home", true); !errors.Is(err, zfs.ErrPermission) {
		t.Errorf("remount: %v", err)
	}
	if _, err := c.Holders(t.Context(), "../1"); !errors.Is(err, zfs.ErrPermission) {
		t.Errorf("holders: %v", err)
	}
	nobody := Client{Socket: filepath.Join(zfstest.TempDir(t), "none")}
	if err := nobody.Remove(t.Context(), "/tank/tarn/a"); !errors.Is(err, zfs.ErrToolMissing) || !strings.Contains(err.Error(), "systemctl start") {
		t.Errorf("without a helper: %v", err)
	}
}

// A helper for dead-men starts nothing else.
func TestDeadmanOnly(t *testing.T) {
	c := serve(t, Config{
		Policy: policy(), UID: uint32(os.Getuid()), DeadmanOnly: true, Deadman: []string{"sh", "-c", "read line; echo got $line"}, Logger: testLog(t),
	})
	if _, err := c.Launch("zfs", []string{"list", "tank"}, nil, os.Stderr, os.Stderr); !errors.Is(err, zfs.ErrPermission) {
		t.Errorf("%v", err)
	}
	orders, tell, err1 := os.Pipe()
	hear, answers, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	p, err := c.StartDeadman(orders, answers)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = orders.Close(), answers.Close()
	_, _ = tell.WriteString("orders\n")
	if said, err := io.ReadAll(hear); string(said) != "got orders\n" || err != nil {
		t.Errorf("%q, %v", said, err)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

// Garbage ends the connection that it came over and nothing else.
func TestGarbage(t *testing.T) {
	c := helper(t, `echo fine`)
	for _, garbage := range []string{"", "\x00", "\xff\xff\xff\xff", "\x00\x00\x00\x02{]", "\x00\x00\x00\x40{", "GET / HTTP/1.1\r\n\r\n"} {
		conn, err := net.Dial("unix", c.Socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(garbage))
		_ = conn.(*net.UnixConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: %v", garbage, err)
		}
		_ = conn.Close()
	}
	out, _, l, err := launch(t, c, "")
	if err != nil || out != "fine\n" || l.Wait() != nil {
		t.Errorf("afterwards: %q, %v", out, err)
	}
}

const envAsk = "TARN_PRIVSEP_ASK" // a socket: ask over it and say what came

// TestAsk is the other user of the next test.
func TestAsk(t *testing.T) {
	socket := os.Getenv(envAsk)
	if socket == "" {
		return
	}
	if _, err := (Client{Socket: socket}).Launch("zfs", []string{"list", "tank"}, nil, os.Stderr, os.Stderr); err == nil {
		t.Fatal("another user is served")
	}
}

// The kernel says who calls: another user is not served, even where the socket lets them.
func TestOtherUsersAreNotServed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: becoming another user needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// Nobody may not read where this test was built.
	binary, socket := filepath.Join(dir, "test"), filepath.Join(dir, "helper.sock")
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(binary, data, 0o755), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		served uint32
		ok     bool
	}{{12345, false}, {65534, true}} {
		listener, err := Listen(t.Context(), socket, c.served)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(socket, 0o666); err != nil {
			t.Fatal(err)
		}
		server := NewServer(Config{Policy: policy(), UID: c.served, Command: shell("true"), Logger: testLog(t)})
		done := make(chan error, 1)
		go func() { done <- server.Run(t.Context(), listener) }()
		cmd := exec.CommandContext(t.Context(), binary, "-test.run", "^TestAsk$")
		cmd.Env, cmd.Dir = append(os.Environ(), envAsk+"="+socket), dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if refused := err == nil; refused == c.ok {
			t.Errorf("user %d is served, 65534 asked: %v\n%s", c.served, err, out)
		}
		_ = listener.Close()
		<-done
	}
}
