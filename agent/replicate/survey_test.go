package replicate

import (
	"context"
	"errors"
	"testing"
	"time"

	"tarn/agent/stream/memzfs"
	"tarn/zfs"
)

// TestSurveyOfAHungPool: those who waited for a listing that failed hear of it, and do not
// each try in turn; the next look does.
func TestSurveyOfAHungPool(t *testing.T) {
	fs := memzfs.New(1, testPool)
	check(t, fs.Create(t.Context(), testRoot, nil, true))
	listings := 0
	fs.Before = func(int, string, string) error {
		listings++
		return &zfs.Error{Op: "list", Object: testRoot, Class: zfs.ErrHung}
	}
	survey, asked := NewSurvey(fs, testRoot), time.Now()
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := survey.since(ended, asked); err == nil {
		t.Error("listed for somebody who has gone")
	}
	for range 10 {
		if _, err := survey.since(t.Context(), asked); !errors.Is(err, zfs.ErrHung) {
			t.Error(err)
		}
	}
	if listings != 1 {
		t.Errorf("%d listings", listings)
	}
	fs.Before = nil
	_, err := survey.since(t.Context(), time.Now())
	check(t, err)
}
