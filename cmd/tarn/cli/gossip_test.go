package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn/proto/tarn/v1"
)

// TestGossipShowTellsWhoRotated, and nothing where nobody is known.
func TestGossipShowTellsWhoRotated(t *testing.T) {
	keys := &tarnv1.GossipKeys{Number: 2, BegunBy: "spiffe://c/operator/ann\x1b[2J", BegunAt: timestamppb.New(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC))}
	for want, keys := range map[bool]*tarnv1.GossipKeys{true: keys, false: {Number: 2}} {
		var out bytes.Buffer
		a := newApp(nil, nil, &out, &out)
		a.Output = "table"
		if err := printGossip(a, &out, keys); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); strings.Contains(got, "rotated") != want || strings.Contains(got, "spiffe://c/operator/ann") != want || strings.Contains(got, "\x1b") {
			t.Errorf("%q", got)
		}
	}
}
