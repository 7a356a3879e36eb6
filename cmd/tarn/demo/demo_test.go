package demo

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDifferenceSeesEveryKindOfChange(t *testing.T) {
	changes := map[string]func(dir string) error{
		"content":  func(d string) error { return os.WriteFile(filepath.Join(d, "notes.txt"), []byte("x"), 0o644) },
		"missing":  func(d string) error { return os.Remove(filepath.Join(d, "many/file-07")) },
		"too much": func(d string) error { return os.WriteFile(filepath.Join(d, "more"), nil, 0o644) },
		"link":     func(d string) error { return relink(filepath.Join(d, "link")) },
		"kind":     func(d string) error { return swapForDir(filepath.Join(d, "empty")) },
		"one bit":  func(d string) error { return flip(filepath.Join(d, "big.bin")) },
	}
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if err := newTree().fill(dir); err != nil {
			t.Fatal(err)
		}
	}
	if diff, n, err := difference(a, b); err != nil || len(diff) != 0 || n < 50 {
		t.Fatalf("equal trees: %v, %d entries, %v", diff, n, err)
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			c := t.TempDir()
			if err := newTree().fill(c); err != nil {
				t.Fatal(err)
			}
			if err := change(c); err != nil {
				t.Fatal(err)
			}
			if diff, _, err := difference(a, c); err != nil || len(diff) != 1 {
				t.Errorf("found %v, %v", diff, err)
			}
		})
	}
}

func relink(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Symlink("elsewhere", path)
}

func swapForDir(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o755)
}

func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o644)
}

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
