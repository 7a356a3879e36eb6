package replicate

import (
	"math/rand/v2"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
)

// TestHalfAReceiveThatCannotEnd: while half an increment is there, somebody changes what it
// stands on. It could be resumed for ever and would never fit: it is dropped, and what is
// there is put aside like any other divergence.
func TestHalfAReceiveThatCannotEnd(t *testing.T) { plainly(t, halfThatCannotEnd) }

func halfThatCannotEnd(t *testing.T, on maker) {
	for name, change := range map[string]func(*testHost) error{
		"snapshot": func(b *testHost) error { return b.fs.Snapshot(t.Context(), b.dataset()+"@by-hand") },
		"written":  func(b *testHost) error { return b.fs.Write(b.dataset(), "by hand\n", true) },
	} {
		t.Run(name, func(t *testing.T) {
			c, a, b := pairOn(t, on)
			c.until("in sync", inSync(a, b))
			slow := b.secondary(1, a)
			slow.Options = &tarnv1.ReplicationOptions{RateLimit: 1 << 20}
			b.assign(slow)
			before := b.heard("bytes")
			a.write(noise(4 << 20))
			c.until("on its way", func() bool { return b.heard("bytes") > before+512<<10 })
			b.kill()
			if ds, _, _ := b.fs.Peek(b.dataset()); ds.ResumeToken == "" {
				t.Fatal("nothing is half received")
			}
			c.must(change(b))
			b.assign(b.secondary(1, a))
			b.start()
			c.until("in sync again", inSync(a, b))
			c.until("what was changed is kept", func() bool { return len(b.report().GetDivergentCopies()) == 1 })
			b.clean()
		})
	}
}

// noise is text that no engine makes smaller.
func noise(n int) string {
	rng, text := rand.New(rand.NewPCG(1, 2)), make([]byte, n)
	for i := range text {
		text[i] = byte(' ' + rng.IntN(90))
	}
	return string(text)
}
