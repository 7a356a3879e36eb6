package zfs

import (
	"maps"
	"slices"
	"testing"
)

func TestSharedIsRead(t *testing.T) {
	records, err := parseRecords("t/tarn\tsharenfs\ton\tinherited from t\nt/tarn\tsharesmb\toff\tdefault\n" +
		"t/tarn/a\tsharenfs\trw=@10.0.0.0/8\tlocal\nt/tarn/a\tsharesmb\tname=a\treceived\n" +
		"t/tarn/b\tsharenfs\ton\tinherited from t\nt/tarn/b\tsharesmb\toff\tlocal\nt/tarn/c\tsharenfs\toff\tlocal\nt/tarn/c@s\tsharenfs\t-\t-\n")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"t/tarn": {"sharenfs"}, "t/tarn/a": {"sharenfs", "sharesmb"}}
	if got := sharedAmong(records, "t/tarn"); !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("got %v, want %v", got, want)
	}
}
