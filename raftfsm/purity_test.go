package raftfsm

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"testing"
)

// allowedImports are all that the package may lean on: none of them gives a clock, a
// random number, a file, a socket or a goroutine to Apply.
var allowedImports = map[string]bool{
	"bufio": true, "bytes": true, "cmp": true, "crypto/sha256": true, "encoding/binary": true, "errors": true, "fmt": true,
	"hash": true, "io": true, "iter": true, "maps": true, "slices": true, "strings": true, "sync/atomic": true,
	"time": true, "unicode/utf8": true,
	"github.com/google/btree": true, "github.com/hashicorp/raft": true, "google.golang.org/protobuf/proto": true,
	"google.golang.org/protobuf/types/known/durationpb": true, "google.golang.org/protobuf/types/known/timestamppb": true,
	"tarn/proto/tarn/v1": true, "tarn/proto/tarn/raft/v1": true,
}

var forbiddenCalls = map[string]bool{
	"time.Now": true, "time.Since": true, "time.Until": true, "time.After": true, "time.Sleep": true, "time.NewTimer": true,
	"time.NewTicker": true, "time.Tick": true, "time.AfterFunc": true, "timestamppb.Now": true, "fmt.Print": true, "fmt.Println": true,
	"fmt.Printf": true,
}

// impurities lists what in a file would make Apply more than a function of its input.
func impurities(fset *gotoken.FileSet, file *ast.File) []string {
	var out []string
	add := func(n ast.Node, what string) { out = append(out, fset.Position(n.Pos()).String()+": "+what) }
	for _, imp := range file.Imports {
		if path, _ := strconv.Unquote(imp.Path.Value); !allowedImports[path] {
			add(imp, "imports "+path)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			add(n, "starts a goroutine")
		case *ast.SelectStmt:
			add(n, "selects")
		case *ast.CallExpr:
			if name := callee(n); forbiddenCalls[name] || name == "panic" || name == "print" || name == "println" {
				add(n, "calls "+name)
			}
		case *ast.RangeStmt:
			if name := callee2(n.X); name == "maps.Keys" || name == "maps.Values" || name == "maps.All" {
				add(n, "ranges over a map in its own order")
			}
		}
		return true
	})
	return out
}

func callee2(x ast.Expr) string {
	if call, ok := x.(*ast.CallExpr); ok {
		return callee(call)
	}
	return ""
}

func callee(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if pkg, ok := f.X.(*ast.Ident); ok {
			return pkg.Name + "." + f.Sel.Name
		}
	}
	return ""
}

func TestPurity(t *testing.T) {
	fset := gotoken.NewFileSet()
	files, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil || len(files) < 20 {
		t.Fatalf("source files: %v, %v", files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range impurities(fset, file) {
			t.Error(what)
		}
	}
}

// TestPurityCanFail shows that the scan sees each kind of impurity.
func TestPurityCanFail(t *testing.T) {
	for _, src := range []string{
		`import "math/rand"`, `import "os"`, `import "net"`, `import "log"`,
		"func f() { go f() }", "func f() { select {} }", "func f() { _ = time.Now() }", "func f() { panic(1) }",
		"func f() { for range maps.Keys(m) {} }",
	} {
		fset := gotoken.NewFileSet()
		file, err := parser.ParseFile(fset, "x.go", "package x\n"+src, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(impurities(fset, file)) == 0 {
			t.Errorf("not seen: %s", src)
		}
	}
}
