package demo

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestRoseAndFell(t *testing.T) {
	seconds := func(values ...float64) []time.Duration {
		out := make([]time.Duration, len(values))
		for i, v := range values {
			out[i] = time.Duration(v * float64(time.Second))
		}
		return out
	}
	for _, c := range []struct {
		samples []time.Duration
		want    bool
	}{
		{seconds(0, 0.5, 1, 1.5, 0.2), true},
		{seconds(0, 0.5, 1, 1.5), false},
		{seconds(2, 1, 0), false},
		{seconds(0, 0.1, 0, 0.1), false},
		{seconds(-1, -1, 0.1, 0.9, 0.1), true},
		{nil, false},
	} {
		if got := roseAndFell(c.samples); got != c.want {
			t.Errorf("%s: %v", lagSeries(c.samples), got)
		}
	}
}

func TestAMonotoneSeriesNeverRoseAndFell(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := rapid.SliceOf(rapid.Int64Range(0, int64(time.Second))).Draw(t, "steps")
		var up []time.Duration
		var at time.Duration
		for _, s := range steps {
			at += time.Duration(s)
			up = append(up, at)
		}
		if roseAndFell(up) {
			t.Fatalf("%s only rises", lagSeries(up))
		}
	})
}

func TestSumOf(t *testing.T) {
	const page = `# HELP x y
tarn_transfer_bytes_total{direction="receive",share="a"} 1.5e+06
tarn_transfer_bytes_total{direction="send",share="a"} 7
tarn_transfer_bytes_total{direction="receive",share="b"} 10
tarn_transfer_bytes_total_more{direction="receive"} 99
`
	if got := sumOf(page, "tarn_transfer_bytes_total", `direction="receive"`); got != 1_500_010 {
		t.Errorf("sum is %v", got)
	}
}
