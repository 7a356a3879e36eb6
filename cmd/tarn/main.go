// Command tarn is the whole product in one binary: control-plane daemon, storage
// agent, command line and a local cluster for playing.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"tarn/cmd/tarn/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
