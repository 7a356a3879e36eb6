package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rule forbids calls in some files. A call is "importpath.Name", "importpath.*"
// or a builtin.
type rule struct {
	why    string
	calls  []string
	within func(path string) bool
}

func product(path string) bool { return !strings.HasSuffix(path, "_test.go") }

func below(dirs ...string) func(string) bool {
	return func(path string) bool {
		return product(path) && within(filepath.Dir(path), dirs)
	}
}

var rules = []rule{
	{"the log's machine and the scheduler are pure functions",
		[]string{"time.Now", "time.Since", "time.Until", "time.After", "time.NewTimer", "time.NewTicker",
			"math/rand.*", "math/rand/v2.*", "crypto/rand.*", "os.*"},
		below("raftfsm", "controlplane/schedule")},
	{"results are returned and logs go through slog; only cmd talks to people",
		[]string{"fmt.Print", "fmt.Println", "fmt.Printf", "log.Print", "log.Printf", "log.Println",
			"log.Fatal", "log.Fatalf", "log.Fatalln", "log.Panic", "log.Panicf", "os.Exit"},
		func(path string) bool { return product(path) && !strings.HasPrefix(path, "cmd/") }},
	{"a library does not decide to end the process",
		[]string{"panic"},
		func(path string) bool {
			// A host whose boot clock cannot be read has no safe answer about its lease.
			return product(path) && !strings.HasPrefix(path, "cmd/") && !strings.HasPrefix(path, "agent/lease/clock_")
		}},
	{"a sleep is a race with a number in it: wait for a condition",
		[]string{"time.Sleep"},
		func(string) bool { return true }},
	{"package state and init make order matter",
		[]string{"func init"},
		product},
}

// sleepers may sleep in their tests because time is virtual there.
func virtualTime(file *ast.File) bool {
	return slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` })
}

func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") && !generated(path) {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func generated(path string) bool {
	return strings.HasSuffix(path, ".pb.go") || strings.HasSuffix(path, ".connect.go")
}

func TestForbiddenCalls(t *testing.T) {
	files := goFiles(t)
	if len(files) < 50 {
		t.Fatalf("found only %d files: looking in the wrong place", len(files))
	}
	for _, path := range files {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, finding := range forbidden(fset, file, filepath.ToSlash(strings.TrimPrefix(path, "../"))) {
			t.Error(finding)
		}
	}
}

// forbidden lists what a file must not contain.
func forbidden(fset *token.FileSet, file *ast.File, path string) []string {
	imports := importNames(file)
	var out []string
	report := func(pos token.Pos, call string) {
		for _, r := range rules {
			if r.within(path) && matches(r.calls, call) && (call != "time.Sleep" || !virtualTime(file)) {
				out = append(out, path+":"+strconv.Itoa(fset.Position(pos).Line)+": "+call+": "+r.why)
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if pkg, ok := n.X.(*ast.Ident); ok && imports[pkg.Name] != "" {
				report(n.Pos(), imports[pkg.Name]+"."+n.Sel.Name)
			}
		case *ast.CallExpr:
			if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "panic" {
				report(n.Pos(), "panic")
			}
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				report(n.Pos(), "func init")
			}
		}
		return true
	})
	return out
}

func matches(calls []string, call string) bool {
	return slices.ContainsFunc(calls, func(c string) bool {
		if pkg, all := strings.CutSuffix(c, ".*"); all {
			cut := strings.LastIndexByte(call, '.')
			return cut > 0 && call[:cut] == pkg
		}
		return c == call
	})
}

func importNames(file *ast.File) map[string]string {
	names := map[string]string{}
	for _, i := range file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			continue
		}
		name := path[strings.LastIndexByte(path, '/')+1:]
		if path == "math/rand/v2" {
			name = "rand"
		}
		if i.Name != nil {
			name = i.Name.Name
		}
		names[name] = path
	}
	return names
}

func TestForbiddenCallsAreFound(t *testing.T) {
	const source = `package x
import ("fmt"; "math/rand/v2"; "time")
func init() {}
func f() { time.Sleep(1); _ = time.Now(); _ = rand.Int(); fmt.Println(); panic(1) }`
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "x.go", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if got := forbidden(fset, file, "raftfsm/x.go"); len(got) != 6 {
		t.Errorf("found %d of 6: %v", len(got), got)
	}
	if got := forbidden(fset, file, "cmd/tarn/x.go"); len(got) != 2 {
		t.Errorf("in cmd only sleep and init are forbidden, found %v", got)
	}
}
