package chaos

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// grown says which node has many more goroutines or open files than it began with: those
// that are lost with each fault add up over a run.
func (r *run) grown(begun map[string]map[string]float64) error {
	const spare = 150
	return eventually(r.t.Context(), patience, func(ctx context.Context) error {
		now, err := r.sizes(ctx)
		if err != nil {
			return err
		}
		for node, sizes := range now {
			for what, n := range sizes {
				if least := begun[node][what]; n > 2*least+spare {
					return fmt.Errorf("%s of %s rose from %.0f to %.0f", what, node, least, n)
				}
			}
		}
		return nil
	})
}

// sizes are what every node says of itself.
func (r *run) sizes(ctx context.Context) (map[string]map[string]float64, error) {
	out := map[string]map[string]float64{}
	for _, n := range r.Nodes() {
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		req, err := http.NewRequestWithContext(limited, http.MethodGet, "http://"+n.Admin()+"/metrics", nil)
		if err == nil {
			out[n.Name], err = scrape(req)
		}
		cancel()
		if err != nil {
			return nil, fmt.Errorf("ask %s for its metrics: %w", n.Name, err)
		}
	}
	return out, nil
}

func scrape(req *http.Request) (map[string]float64, error) {
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	out := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if name != "go_goroutines" && name != "process_open_fds" {
			continue
		}
		if out[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(out) != 2 {
		return nil, fmt.Errorf("of goroutines and open files it says %v", out)
	}
	return out, nil
}
