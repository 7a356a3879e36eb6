package stream

import (
	"io"
	"net/http"
	"testing"
	"time"

	"tarn/zfs"
)

// TestAnswerWithoutEnd: an answer that says nothing of use, and does not end, does not keep
// who asked for ever.
func TestAnswerWithoutEnd(t *testing.T) {
	for name, status := range map[string]int{"not a step": http.StatusOK, "an error": http.StatusInternalServerError} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 50*time.Millisecond, func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					_, _ = io.Copy(io.Discard, req.Body)
					w.WriteHeader(status)
					_ = http.NewResponseController(w).Flush()
					<-req.Context().Done()
				})
			})
			req := r.request()
			req.Have = []zfs.GUID{7}
			if p, err := r.client.Pull(t.Context(), req); err == nil {
				p.Close()
				t.Error("it was a step")
			}
		})
	}
}
