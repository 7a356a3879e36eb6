package consensus

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkPropose measures acknowledged writes of 256 bytes on three nodes in
// one process: TCP on loopback, each log in bbolt with fsync on the directory
// given by TMPDIR.
func BenchmarkPropose(b *testing.B) {
	data := make([]byte, 256)
	for _, proposers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("proposers=%d", proposers), func(b *testing.B) {
			node := benchLeader(b)
			benchEach(b, proposers, func(ctx context.Context) error {
				_, _, err := node.Propose(ctx, data)
				return err
			})
		})
	}
}

// BenchmarkReadIndex measures linearizable reads on the same three nodes.
func BenchmarkReadIndex(b *testing.B) {
	for _, readers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			node := benchLeader(b)
			benchEach(b, readers, func(ctx context.Context) error {
				_, err := node.ReadIndex(ctx)
				return err
			})
		})
	}
}

func benchLeader(b *testing.B) *Node {
	c := three(b)
	c.write("warm")
	return c.leader().node
}

// benchEach spreads b.N calls over n goroutines.
func benchEach(b *testing.B, n int, call func(context.Context) error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	for range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := call(context.Background()); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}
