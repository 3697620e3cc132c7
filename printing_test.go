package hyve

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// printers are the packages that talk to the user.
var printers = []string{"cmd/hyve", "cmd/docker-machine-driver-xhyve", "internal/cli", "internal/dockermachine",
	"internal/dockermachine/driver", "internal/listing", "internal/lifecycle", "internal/sshclient", "internal/progress", "internal/migrate"}

// raw are the files that may have the terminal itself, and why.
var raw = map[string]string{
	"internal/cli/ssh.go":           "a guest's own terminal",
	"internal/cli/scp.go":           "the system's scp draws its progress",
	"internal/cli/run.go":           "a program of the user's",
	"internal/cli/stats.go":         "clears the screen",
	"internal/dockermachine/ssh.go": "a guest's own terminal",
	"internal/dockermachine/scp.go": "the system's scp draws its progress",
	"internal/progress/progress.go": "draws, and cleans what it is given",
}

// All printing goes through package terminal: standard output and standard error are
// named only to be cleaned by it, and raw only where that is meant.
func TestPrintingIsCleaned(t *testing.T) {
	seen := 0
	for _, dir := range printers {
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			seen++
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range uncleaned(filepath.ToSlash(path), file) {
				t.Errorf("%s: %s", fset.Position(bad.Pos()), "prints without package terminal")
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d files were looked at", seen)
	}
}

// uncleaned returns what in a file reaches the terminal otherwise.
func uncleaned(path string, file *ast.File) (bad []ast.Node) {
	cleaned := map[ast.Node]bool{} // arguments of terminal.Clean and, where it may be, terminal.Raw
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch name := selector(call.Fun); {
		case name == "terminal.Clean", name == "terminal.Raw" && raw[path] != "":
			for _, arg := range call.Args {
				cleaned[arg] = true
			}
		case name == "terminal.Raw", strings.HasPrefix(name, "fmt.Print"), strings.HasPrefix(name, "log.Print"), strings.HasPrefix(name, "log.Fatal"), strings.HasPrefix(name, "log.Panic"),
			name == "print", name == "println",
			slices.Contains([]string{"syscall.Write", "unix.Write", "slog.Info", "slog.Warn", "slog.Error", "slog.Default"}, name):
			bad = append(bad, call)
		case name == "os.NewFile" && len(call.Args) > 0:
			if n, ok := call.Args[0].(*ast.BasicLit); ok && (n.Value == "1" || n.Value == "2") {
				bad = append(bad, call)
			}
		}
		return true
	})
	ast.Inspect(file, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok && !cleaned[n] {
			switch selector(e) {
			case "os.Stdout", "os.Stderr", "syscall.Stdout", "syscall.Stderr":
				bad = append(bad, n)
			}
			if lit, ok := n.(*ast.BasicLit); ok && strings.HasPrefix(strings.Trim(lit.Value, "`\""), "/dev/tty") {
				bad = append(bad, n)
			}
		}
		return true
	})
	return bad
}

// selector is "package.Name", or the name of a builtin.
func selector(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			return x.Name + "." + e.Sel.Name
		}
	}
	return ""
}

// The test sees what it is for.
func TestPrintingIsSeen(t *testing.T) {
	for source, want := range map[string]int{
		"fmt.Fprintln(a.stdout, x)":                 0,
		"f(terminal.Clean(os.Stdout))":              0,
		"fmt.Println(x)":                            1,
		"fmt.Fprintln(os.Stderr, x)":                1,
		"cmd.Stdout = os.Stdout":                    1,
		"cmd.Stdout = terminal.Raw(os.Stdout)":      2,
		"println(x); log.Fatal(x)":                  2,
		`os.OpenFile("/dev/tty", 1, 0)`:             1,
		"syscall.Write(1, x); os.NewFile(1, \"x\")": 2,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc f() { "+source+" }", parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(uncleaned("x.go", file)); got != want {
			t.Errorf("%s: %d, want %d", source, got, want)
		}
	}
}
