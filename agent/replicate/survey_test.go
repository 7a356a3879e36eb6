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

// TestSurveyTellsWhatIsMounted: what somebody else mounts or unmounts is looked at, unless
// it was done here after the listing began.
func TestSurveyTellsWhatIsMounted(t *testing.T) {
	fs := memzfs.New(1, testPool)
	for _, name := range []string{"a", "b"} {
		check(t, fs.Create(t.Context(), testRoot+"/"+name, nil, true))
	}
	check(t, fs.Mount(t.Context(), testRoot+"/a"))
	before := time.Now()
	seen, err := NewSurvey(fs, testRoot).since(t.Context(), before)
	check(t, err)
	if !seen.datasets[testRoot+"/a"].Mounted || seen.datasets[testRoot+"/b"].Mounted {
		t.Errorf("mounted are %v", seen.datasets)
	}
	w := &Worker{s: state{f: facts{ds: &zfs.Dataset{Mounted: true}}, mountedAt: before.Add(-time.Second)}}
	if w.remounted(true, seen.begun) || !w.remounted(false, seen.begun) {
		t.Error("what others unmounted is not noticed, or something else is")
	}
	w.mountSeen()
	if w.remounted(false, seen.begun) {
		t.Error("an older listing counts")
	}
}
