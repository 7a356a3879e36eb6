package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	tarnv1 "tarn/proto/tarn/v1"
)

func TestExitCodes(t *testing.T) {
	for code, want := range map[connect.Code]int{
		connect.CodeInvalidArgument: 2, connect.CodeNotFound: 3, connect.CodeFailedPrecondition: 4, connect.CodeAborted: 4,
		connect.CodeAlreadyExists: 4, connect.CodeResourceExhausted: 4, connect.CodeUnavailable: 5, connect.CodeDeadlineExceeded: 5,
		connect.CodePermissionDenied: 6, connect.CodeUnauthenticated: 6, connect.CodeInternal: 1,
	} {
		if got := exitCode(fmt.Errorf("wrapped: %w", connect.NewError(code, errors.New("x")))); got != want {
			t.Errorf("%s: exit code %d, want %d", code, got, want)
		}
	}
	if got := exitCode(errors.New("plain")); got != exitFailure {
		t.Errorf("plain error: exit code %d", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := exitCode(interrupted(ctx, errors.New("any"))); got != exitInterrupted {
		t.Errorf("interrupted: exit code %d", got)
	}
}

func TestReportPrintsDetails(t *testing.T) {
	rpc := connect.NewError(connect.CodeFailedPrecondition, errors.New("no pool fits"))
	for _, detail := range []*tarnv1.PlacementFailure{{Refusals: []*tarnv1.PoolRefusal{{Pool: "a@b#c", Filter: "zone", Reason: "it is in az2"}}}} {
		d, err := connect.NewErrorDetail(detail)
		if err != nil {
			t.Fatal(err)
		}
		rpc.AddDetail(d)
	}
	var out bytes.Buffer
	a := newApp(nil, nil, nil, &out)
	if code := a.report(rpc); code != exitRefused {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"tarn: no pool fits\n", "a@b#c", "it is in az2", "next: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
}

func TestEnumsThereAndBack(t *testing.T) {
	values := tarnv1.Status(0).Descriptor().Values()
	for i := range values.Len() {
		e := tarnv1.Status(values.Get(i).Number())
		back, err := parseEnum[tarnv1.Status]("status", enumText(e))
		if err != nil || back != e {
			t.Errorf("%v prints as %q, which reads as %v, %v", e, enumText(e), back, err)
		}
	}
	if got := enumText(tarnv1.ReplicaState_REPLICA_STATE_IN_SYNC); got != "in_sync" {
		t.Errorf("in_sync prints as %q", got)
	}
	if _, err := parseEnum[tarnv1.AccessLevel]("level", "rx"); err == nil || !strings.Contains(err.Error(), "rw, ro") {
		t.Errorf("wrong level: %v", err)
	}
}

func TestHumanUnits(t *testing.T) {
	for want, got := range map[string]string{
		"0 B": bytesText(0), "1023 B": bytesText(1023), "1.0 KiB": bytesText(1024), "1.5 MiB": bytesText(3 << 19),
		"unknown": bytesText(-1),
		"850ms":   shortDuration(850 * time.Millisecond), "4.2s": shortDuration(4210 * time.Millisecond), "3m12s": shortDuration(192 * time.Second),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNamesCannotMoveTheCursor(t *testing.T) {
	if got := printable("a\x1b[2Jb\tc\x7f"); strings.ContainsAny(got, "\x1b\t\x7f") {
		t.Errorf("control characters survive: %q", got)
	}
}

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		a := newApp(nil, nil, nil, &out)
		looks := 0
		err := a.await(t.Context(), waitFlags{Timeout: time.Minute}, "it", func(context.Context) (progress, error) {
			looks++
			return progress{done: looks == 3, text: fmt.Sprint("look ", looks), fraction: -1}, nil
		})
		if err != nil || looks != 3 || strings.Count(out.String(), "\n") != 3 {
			t.Errorf("after %d looks: %v\n%s", looks, err, out.String())
		}
		err = a.await(t.Context(), waitFlags{Timeout: time.Second}, "it", func(context.Context) (progress, error) {
			return progress{text: "creating", fraction: -1}, nil
		})
		if exitCode(err) != exitUnavailable || !strings.Contains(err.Error(), "creating") {
			t.Errorf("timeout: %v", err)
		}
	})
}

func TestBarStaysInItsFrame(t *testing.T) {
	for _, fraction := range []float64{0, 0.5, 1, 1.7} {
		got := bar(progress{fraction: fraction, eta: time.Minute})
		if strings.Index(got, "]")-strings.Index(got, "[") != 31 || !strings.Contains(got, "ETA 1m0s") {
			t.Errorf("%v: %q", fraction, got)
		}
	}
}

func TestCollectPages(t *testing.T) {
	pages := map[string][]int{"": {1, 2}, "a": {3, 4}, "b": {5}}
	next := map[string]string{"": "a", "a": "b"}
	fetch := func(limit int32, token string) ([]int, string, error) {
		items := pages[token]
		return items[:min(len(items), int(limit))], next[token], nil
	}
	for limit, want := range map[int]int{0: 5, 1: 1, 3: 3, 9: 5} {
		got, err := collect(pageFlags{Limit: limit}, fetch)
		if err != nil || len(got) != want {
			t.Errorf("limit %d gave %v, %v", limit, got, err)
		}
	}
	if _, err := collect(pageFlags{Limit: -1}, fetch); exitCode(err) != exitUsage {
		t.Errorf("negative limit: %v", err)
	}
}

func TestPromotionProgressToldByEpochAndOwner(t *testing.T) {
	r := &tarnv1.Replica{Id: "r2", Status: tarnv1.Status_STATUS_AVAILABLE, ReplicaState: tarnv1.ReplicaState_REPLICA_STATE_ACTIVE}
	running := &tarnv1.Fencing{Phase: tarnv1.FencingPhase_FENCING_PHASE_FENCING, OpId: "op", OwnerReplicaId: "r1"}
	if p, err := promotionProgress(running, r, "op"); err != nil || p.done {
		t.Errorf("running: %+v, %v", p, err)
	}
	done := &tarnv1.Fencing{Phase: tarnv1.FencingPhase_FENCING_PHASE_ACTIVE, OwnerReplicaId: "r2", Epoch: 2}
	if p, err := promotionProgress(done, r, "op"); err != nil || !p.done {
		t.Errorf("done: %+v, %v", p, err)
	}
	cancelled := &tarnv1.Fencing{Phase: tarnv1.FencingPhase_FENCING_PHASE_ACTIVE, OwnerReplicaId: "r1", Epoch: 2}
	if _, err := promotionProgress(cancelled, r, "op"); exitCode(err) != exitRefused {
		t.Errorf("cancelled: %v", err)
	}
}
