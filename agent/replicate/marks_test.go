package replicate

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestMarksAreAllListed: an engine that is told which user properties matter must be
// told of all of them.
func TestMarksAreAllListed(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "mark") || len(spec.Values) == 0 {
				return true
			}
			literal, ok := spec.Values[0].(*ast.BasicLit)
			if !ok {
				return true
			}
			found++
			if value, err := strconv.Unquote(literal.Value); err != nil || !slices.Contains(Marks(), value) {
				t.Errorf("%s: %s is not among Marks", f.Name(), literal.Value)
			}
			return true
		})
	}
	if found != len(Marks()) {
		t.Errorf("%d marks found, %d listed", found, len(Marks()))
	}
}
