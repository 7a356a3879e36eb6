package test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// faultRows of the matrix.
const faultRows = 64

var namedTest = regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9]+)(?:/([a-z0-9-]+))?`")

// Every row of docs/faults.md names a test that exists, or says why there is none.
func TestFaultsAreTested(t *testing.T) {
	text, err := os.ReadFile("../docs/faults.md")
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]testPackage{}
	next := 1
	for line := range strings.Lines(string(text)) {
		for _, m := range namedTest.FindAllStringSubmatch(line, -1) {
			p, known := packages[m[1]]
			if !known {
				p = readTests(t, m[1])
				packages[m[1]] = p
			}
			if err := p.has(m[2], m[3]); err != nil {
				t.Errorf("%s: %v", m[0], err)
			}
		}
		cells := strings.Split(line, "|")
		if len(cells) < 4 || strings.TrimSpace(cells[1]) != strconv.Itoa(next) {
			continue
		}
		if !namedTest.MatchString(cells[3]) && !strings.Contains(cells[3], "**Not tested**: ") {
			t.Errorf("row %d names neither a test nor a reason why there is none", next)
		}
		next++
	}
	if next != faultRows+1 {
		t.Errorf("row %d of %d is missing", next, faultRows)
	}
}

// testPackage is what the test files of one directory hold.
type testPackage struct {
	functions map[string]bool
	texts     map[string]bool
}

func (p testPackage) has(function, part string) error {
	switch {
	case !p.functions[function]:
		return fmt.Errorf("there is no function %s", function)
	case part != "" && !p.texts[part]:
		return fmt.Errorf("nothing there is called %q", part)
	}
	return nil
}

func readTests(t *testing.T, dir string) testPackage {
	t.Helper()
	path := filepath.Join("..", dir)
	if dir == "test" {
		path = "."
	}
	// The only error is that of a malformed pattern.
	files, _ := filepath.Glob(filepath.Join(path, "*_test.go"))
	p := testPackage{functions: map[string]bool{}, texts: map[string]bool{}}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				p.functions[n.Name.Name] = true
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					p.texts[text] = true
				}
			}
			return true
		})
	}
	return p
}
