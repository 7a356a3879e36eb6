package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"

	"tarn/controlplane/client"
	tarnv1 "tarn/proto/tarn/v1"
)

// Exit codes; docs/cli.md promises them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitUnavailable = 5
	exitNotAllowed  = 6
	exitInterrupted = 130
)

// failure is an error of the command line itself, with its exit code and what to do next.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func (f *failure) next(format string, args ...any) *failure {
	f.hint = fmt.Sprintf(format, args...)
	return f
}

func fail(code int, format string, args ...any) *failure {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

func usage(format string, args ...any) *failure { return fail(exitUsage, format, args...) }

// interrupted replaces the many faces of a cancelled context by one.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fail(exitInterrupted, "interrupted")
	}
	return err
}

func exitCode(err error) int {
	var f *failure
	if errors.As(err, &f) {
		return f.code
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitUnavailable
	}
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return exitUsage
	case connect.CodeNotFound:
		return exitNotFound
	case connect.CodeAlreadyExists, connect.CodeAborted, connect.CodeFailedPrecondition, connect.CodeResourceExhausted:
		return exitRefused
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled:
		return exitUnavailable
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return exitNotAllowed
	}
	return exitFailure
}

// report prints err for a person and returns the exit code.
func (a *app) report(err error) int {
	text := sentence(err)
	fmt.Fprintln(a.stderr, "tarn:", text)
	for _, v := range client.Violations(err) {
		if line := v.GetField() + ": " + v.GetRule(); line != text {
			fmt.Fprintln(a.stderr, "  "+line)
		}
	}
	printRefusals(a.stderr, err)
	printQuota(a.stderr, err)
	if hint := nextStep(err); hint != "" {
		fmt.Fprintln(a.stderr, "next:", hint)
	}
	return exitCode(err)
}

// sentence is the error's text without the RPC's own decoration.
func sentence(err error) string {
	var rpc *connect.Error
	if !errors.As(err, &rpc) {
		return err.Error()
	}
	before, _, _ := strings.Cut(err.Error(), rpc.Error())
	return before + rpc.Message()
}

func printRefusals(w io.Writer, err error) {
	failed, ok := client.Detail[*tarnv1.PlacementFailure](err)
	if !ok || len(failed.GetRefusals()) == 0 {
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "  POOL\tREFUSED BY\tREASON")
	for _, r := range failed.GetRefusals() {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", r.GetPool(), r.GetFilter(), r.GetReason())
	}
	tw.Flush()
}

func printQuota(w io.Writer, err error) {
	if q, ok := client.Detail[*tarnv1.QuotaExceeded](err); ok {
		fmt.Fprintf(w, "  %s: limit %d, in use %d, requested %d\n", q.GetKey(), q.GetLimit(), q.GetInUse(), q.GetRequested())
	}
}

func nextStep(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.hint
	}
	if _, ok := client.Detail[*tarnv1.PlacementFailure](err); ok {
		return "compare with `tarn pool list` and the type's extra specs in `tarn share-type show`"
	}
	if _, ok := client.Detail[*tarnv1.QuotaExceeded](err); ok {
		return "free something, or ask an operator for `tarn quota set`; `tarn quota show` lists the use"
	}
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		return "see `tarn status --stale` and the addresses in TARN_CONFIG; the same command may be repeated"
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		return "use a certificate with the needed role; `openssl x509 -noout -ext subjectAltName` shows yours"
	case connect.CodeAborted:
		return "somebody else changed it meanwhile: look again and repeat"
	}
	return ""
}
