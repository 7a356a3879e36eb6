package replicate

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"tarn/agent/stream"
	tarnv1 "tarn/proto/tarn/v1"
	"tarn/zfs"
)

// TestEveryClassHasACode: what the storage can answer reaches the control plane, the
// metrics and the users under a code of its own, with the next step in its text. Those
// without are tarn's own mistakes, or cured before anybody hears of them.
func TestEveryClassHasACode(t *testing.T) {
	const internal = tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_INTERNAL
	classes := map[string]error{
		"ErrNotExist": zfs.ErrNotExist, "ErrBusy": zfs.ErrBusy, "ErrNoSpace": zfs.ErrNoSpace, "ErrQuota": zfs.ErrQuota,
		"ErrDiverged": zfs.ErrDiverged, "ErrModified": zfs.ErrModified, "ErrStreamTruncated": zfs.ErrStreamTruncated,
		"ErrStreamCorrupt": zfs.ErrStreamCorrupt, "ErrStreamRefused": zfs.ErrStreamRefused, "ErrStreamFlags": zfs.ErrStreamFlags,
		"ErrPoolUnavailable": zfs.ErrPoolUnavailable, "ErrPermission": zfs.ErrPermission, "ErrUnsupported": zfs.ErrUnsupported,
		"ErrReadOnly": zfs.ErrReadOnly, "ErrKey": zfs.ErrKey, "ErrHung": zfs.ErrHung, "ErrStalled": zfs.ErrStalled, "ErrToolMissing": zfs.ErrToolMissing,
		"ErrUnclassified": zfs.ErrUnclassified,
	}
	own := "ErrInvalid ErrExists ErrHeld ErrHasClones ErrHasSnapshots ErrNotLatest ErrResumable ErrNotResumable ErrTokenInvalid ErrBaseMissing ErrNotMounted"
	for _, name := range declaredClasses(t) {
		err, coded := classes[name]
		switch {
		case !coded && !strings.Contains(own+" ", name+" "):
			t.Errorf("zfs.%s is not looked at here", name)
		case coded:
			code, sentence := explain(doPull, fmt.Errorf("receive: %w", &zfs.Error{Op: "receive", Object: "tank/a", Class: err}))
			if code == internal || !strings.HasSuffix(sentence, ")") {
				t.Errorf("zfs.%s: %v, %q", name, code, sentence)
			}
		}
	}
	for _, err := range []error{stream.ErrNoCommon, stream.ErrDenied, stream.ErrStalled, stream.ErrUnreachable} {
		if code, _ := explain(doPull, err); code == internal {
			t.Errorf("%v has no code", err)
		}
	}
}

// declaredClasses are the names of package zfs's classes of errors.
func declaredClasses(t *testing.T) (names []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "../../zfs/errors.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Err") {
			names = append(names, spec.Names[0].Name)
		}
		return true
	})
	if len(names) < 20 {
		t.Fatalf("found %d classes only", len(names))
	}
	return names
}
