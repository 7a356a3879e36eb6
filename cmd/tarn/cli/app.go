package cli

import (
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"tarn/controlplane/client"
)

// app is what a command works with: the streams, the flags and the way to the
// control plane. One per Run.
type app struct {
	globals

	env    map[string]string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	parser *kong.Kong
	// results for programs, printed at the end.
	results []result

	// dial opens the client; tests put their own services here.
	dial func(a *app) (*client.Client, error)
	api  *client.Client
}

func newApp(env []string, stdin io.Reader, stdout, stderr io.Writer) *app {
	a := &app{env: map[string]string{}, stdin: stdin, stdout: stdout, stderr: stderr, dial: dialConfigured}
	for _, pair := range env {
		if k, v, ok := strings.Cut(pair, "="); ok {
			a.env[k] = v
		}
	}
	return a
}

// client returns the client, opened at first use. Commands that need it say so by
// an argument; from then on a.api is set.
func (a *app) client() (*client.Client, error) {
	if a.api != nil {
		return a.api, nil
	}
	api, err := a.dial(a)
	if err != nil {
		return nil, err
	}
	a.api = api
	return api, nil
}

func (a *app) logger() *slog.Logger {
	if !a.Verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// isTerminal tells whether w is a terminal that a person looks at.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
