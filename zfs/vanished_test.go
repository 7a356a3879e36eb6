package zfs_test

import (
	"fmt"
	"testing"
)

// TestDatasetsVanish: a listing goes on without what was destroyed meanwhile, but not without
// what could not be read: that is there.
func TestDatasetsVanish(t *testing.T) {
	const gone = "cannot open 'p/t/a': dataset does not exist"
	for said, whole := range map[string]bool{gone: true, gone + "\ncannot open 'p/t/b': I/O error": false, "cannot open 'p/t/b': dataset is busy\n" + gone: false} {
		cfg, _ := fake(t, fmt.Sprintf("printf 'p/t\\tguid\\t7\\t-\\n'; printf '%%s\\n' \"%s\" >&2; exit 1", said))
		list, err := openWith(t, cfg).Datasets(t.Context(), "p/t")
		if whole != (err == nil && len(list) == 1) {
			t.Errorf("%q: %d datasets, %v", said, len(list), err)
		}
	}
}
