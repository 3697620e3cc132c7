package hyve

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/hyve-vm/hyve/"

// layers says which of hyve's packages each of them may import. Downwards only:
// a package that is not listed here does not belong anywhere yet. Whoever reports an error
// may give it a hint.
var layers = map[string][]string{
	"cmd/hyve":      {"internal/cli", "internal/dockermachine", "internal/dockermachine/driver"},
	"cmd/hyve-init": {"internal/guest"},
	// The plugin is all of hyve, since it starts supervisors.
	"cmd/docker-machine-driver-xhyve": {"internal/cli", "internal/dockermachine/driver"},

	// The words. They call the verbs; supervisor is here for the one hidden word
	// that is the supervisor's process, and for --dry-run.
	"internal/cli": {"internal/lifecycle", "internal/sshclient", "internal/listing", "internal/supervisor", "internal/machine", "internal/image",
		"internal/image/build", "internal/control", "internal/dockerenv", "internal/machinestore", "internal/migrate",
		"internal/progress", "internal/terminal", "internal/guestapi", "internal/logs", "internal/doctor"},

	// The verbs in the hands of the real docker-machine.
	"internal/dockermachine/driver": {"internal/lifecycle", "internal/machine", "internal/image/build", "internal/pki", "internal/control",
		"internal/dockerenv", "internal/accept", "internal/terminal", "internal/bounded"},

	// The same in docker-machine's language.
	"internal/dockermachine": {"internal/lifecycle", "internal/sshclient", "internal/listing", "internal/machine", "internal/image/build", "internal/pki", "internal/guestapi",
		"internal/control", "internal/dockerenv", "internal/progress", "internal/terminal", "internal/bounded", "internal/dockermachine/driver", "internal/machinestore"},

	// Listings and logging in, for both.
	"internal/listing":   {},
	"internal/sshclient": {"internal/machine", "internal/pki", "internal/private", "internal/bounded"},

	// The verbs. Not supervisor: a command must not do by accident what only the
	// owner of a VM may. Of the hypervisor only whether there is one.
	"internal/lifecycle": {"internal/machine", "internal/image", "internal/image/build", "internal/pki", "internal/control",
		"internal/disk", "internal/dockerenv", "internal/frozen", "internal/guestapi", "internal/hypervisor", "internal/hypervisor/pick", "internal/trial", "internal/bounded"},

	"internal/supervisor": {"internal/hypervisor", "internal/hypervisor/pick", "internal/network", "internal/accept", "internal/guestapi", "internal/hostenv",
		"internal/disk", "internal/frozen", "internal/machine", "internal/image", "internal/control", "internal/dockerenv", "internal/pki", "internal/trial"},

	// Whether machines can be thawed, for those who freeze, make templates and ask.
	"internal/trial": {"internal/machine", "internal/hypervisor", "internal/guestapi", "internal/bounded"},

	"internal/doctor":       {"internal/hypervisor", "internal/hypervisor/pick", "internal/image", "internal/image/build", "internal/machine", "internal/trial"},
	"internal/logs":         {"internal/machine", "internal/guestapi", "internal/bounded"},
	"internal/machine":      {"internal/guestapi", "internal/private", "internal/bounded"},
	"internal/machinestore": {"internal/bounded"},
	"internal/sparse":       {},
	"internal/ext4":         {},
	"internal/disk":         {"internal/sparse", "internal/ext4"},
	"internal/frozen":       {"internal/sparse", "internal/bounded"},
	"internal/control":      {"internal/private", "internal/bounded"},
	"internal/pki":          {"internal/bounded"},
	"internal/dockerenv":    {"internal/bounded"},
	"internal/migrate":      {"internal/dockerenv"},
	"internal/progress":     {"internal/terminal"},
	"internal/terminal":     {},
	"internal/bounded":      {},
	"internal/private":      {"internal/bounded"},
	"internal/hostenv":      {"internal/guestapi", "internal/bounded"},
	"internal/network":      {"internal/network/dns", "internal/accept"},
	"internal/network/dns":  {"internal/accept", "internal/bounded"},
	"internal/accept":       {},
	"internal/hypervisor":   {"internal/sparse"},
	"internal/confine":      {},
	// All other packages know hypervisors by what all of them are.
	"internal/hypervisor/pick": {"internal/hypervisor", "internal/hypervisor/qemu"},
	"internal/hypervisor/qemu": {"internal/hypervisor", "internal/sparse", "internal/confine", "internal/bounded"},
	"internal/image":           {"internal/bounded"},
	"internal/image/debian":    {"internal/bounded"},
	"internal/image/build":     {"internal/image", "internal/image/debian", "internal/bounded"},
	// A small archive of their own, for the tests of both.
	"internal/image/debian/debiantest": {"internal/image/debian"},

	// The guest shares the contract with the host, how file systems begin, and how
	// connections are accepted.
	"internal/guestapi": {},
	"internal/hint":     {},
	"internal/guest": {"internal/guest/account", "internal/guest/datadisk", "internal/guest/door", "internal/guest/engine", "internal/guest/front", "internal/guest/ioctl",
		"internal/guest/mount", "internal/guest/outbox", "internal/guest/process", "internal/guest/publish", "internal/guest/sshd", "internal/guest/wholefile", "internal/guestapi", "internal/accept"},
	"internal/guest/publish":           {"internal/guest/outbox", "internal/guest/process", "internal/guestapi"},
	"internal/guest/outbox":            {"internal/guestapi"},
	"internal/guest/outbox/outboxtest": {"internal/guest/outbox", "internal/guestapi"},
	"internal/guest/sshd":              {"internal/guest/account", "internal/guest/door", "internal/guest/process", "internal/guestapi", "internal/accept"},
	"internal/guest/engine": {"internal/guest/datadisk", "internal/guest/front", "internal/guest/outbox", "internal/guest/process",
		"internal/guest/publish", "internal/guest/wholefile", "internal/guestapi"},
	"internal/guest/wholefile": {},
	"internal/guest/front":     {"internal/guest/door", "internal/guestapi"},
	"internal/guest/datadisk":  {"internal/guest/ioctl", "internal/guest/mount", "internal/guest/process", "internal/ext4"},
	"internal/guest/ioctl":     {},
	"internal/guest/mount":     {},
	"internal/guest/door":      {"internal/accept"},
	"internal/guest/account":   {},
	"internal/guest/process":   {},

	"e2e/testregistry":   {},
	"e2e/testimage":      {"internal/image", "internal/image/build", "internal/machine"},
	"e2e/serve-registry": {"e2e/testregistry"},
	"e2e/echo":           {},
	"e2e/keeper":         {},
	"e2e/attacker":       {},
	"e2e/faulty":         {},
	"e2e/hellofs":        {},
	"e2e/usurper":        {},
	"e2e/reaper":         {},
	"e2e/outer":          {},
	// Measures VMs as hyve makes them, and one on QEMU's own network.
	"e2e/bench": {"e2e/testregistry", "e2e/testimage", "internal/machine", "internal/control", "internal/guestapi", "internal/image", "internal/image/build", "internal/pki",
		"internal/hypervisor", "internal/hypervisor/qemu"},
}

func TestImportsGoDownwards(t *testing.T) {
	found := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "." {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		found++
		checkImports(t, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 20 {
		t.Fatalf("only %d files of Go found: the test looks in the wrong place", found)
	}
}

func checkImports(t *testing.T, path string) {
	pkg := filepath.ToSlash(filepath.Dir(path))
	allowed, ok := layers[pkg]
	if !ok {
		t.Errorf("%s: package %s has no place in layers", path, pkg)
		return
	}
	for _, own := range ownImports(t, path) {
		if own != "internal/hint" && !slices.Contains(allowed, own) {
			t.Errorf("%s imports %s, which its layer may not", path, own)
		}
	}
}

// ownImports are the packages of hyve's own that a file imports.
func ownImports(t *testing.T, path string) (own []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return nil
	}
	for _, spec := range file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Error(err)
		}
		if name, ok := strings.CutPrefix(name, module); ok {
			own = append(own, name)
		}
	}
	return own
}

// eachFile passes the files of Go to check, without tests and those below some directories.
func eachFile(t *testing.T, without []string, check func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below := func(dir string) bool { return strings.HasPrefix(filepath.ToSlash(path), dir+"/") }
		if filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") && !slices.ContainsFunc(without, below) {
			check(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// acceptors are where connections are accepted otherwise than by internal/accept: the
// package itself, and programs that are no part of what users run.
var acceptors = []string{"internal/accept", "e2e"}

// TestConnectionsAreAcceptedInOneWay looks for loops around Accept: one of them ends at
// the first lack of descriptors. http.Serve and the like take a listener of accept.Door.
func TestConnectionsAreAcceptedInOneWay(t *testing.T) {
	eachFile(t, acceptors, func(path string) { checkAccepts(t, path) })
}

// inspect passes what a file consists of to visit, which returns whether to look inside, and
// has at say where something is.
func inspect(t *testing.T, path string, visit func(node ast.Node, at func(token.Pos) token.Position) bool) {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return
	}
	ast.Inspect(file, func(node ast.Node) bool { return visit(node, files.Position) })
}

func checkAccepts(t *testing.T, path string) {
	inspect(t, path, func(node ast.Node, at func(token.Pos) token.Position) bool {
		assign, ok := node.(*ast.AssignStmt)
		if !ok || len(assign.Lhs) != 2 || len(assign.Rhs) != 1 { // an SSH channel's Accept returns three
			return true
		}
		call, ok := assign.Rhs[0].(*ast.CallExpr)
		if !ok || len(call.Args) != 0 {
			return true
		}
		if f, ok := call.Fun.(*ast.SelectorExpr); ok && strings.HasPrefix(f.Sel.Name, "Accept") {
			t.Errorf("%s: use accept.Door", at(call.Pos()))
		}
		return true
	})
}

// readers are where files are read otherwise than by internal/bounded: the package itself,
// the guest, and programs that are no part of what users run. Files of /proc and /sys, in
// those that are for Linux alone, end.
var readers = []string{"internal/bounded", "internal/guest", "e2e"}

// openers open large files, and directories, of hyve's own: nobody else writes to these.
var openers = []string{"internal/machine", "internal/frozen", "internal/sparse", "internal/disk", "internal/image", "internal/hypervisor/qemu",
	"internal/supervisor", "internal/migrate"}

// TestFilesAreReadInOneWay looks for what reads files without a bound, or opens them and so
// waits for the other end of a pipe.
func TestFilesAreReadInOneWay(t *testing.T) {
	eachFile(t, readers, func(path string) {
		if !strings.HasSuffix(path, "_linux.go") {
			own := slices.ContainsFunc(openers, func(dir string) bool { return strings.HasPrefix(filepath.ToSlash(path), dir+"/") })
			checkReads(t, path, own)
		}
	})
}

func checkReads(t *testing.T, path string, opens bool) {
	inspect(t, path, func(node ast.Node, at func(token.Pos) token.Position) bool {
		if call, ok := node.(*ast.CallExpr); ok && !opens && waitsForPipes(call) {
			t.Errorf("%s: use bounded.Open", at(call.Pos()))
		}
		f, ok := node.(*ast.SelectorExpr)
		if !ok || f.Sel.Name != "ReadFile" && f.Sel.Name != "LoadX509KeyPair" {
			return true
		}
		if pkg, ok := f.X.(*ast.Ident); ok && (pkg.Name == "os" || pkg.Name == "ioutil" || pkg.Name == "tls") {
			t.Errorf("%s: use bounded.ReadFile", at(f.Pos()))
		}
		return true
	})
}

// waitsForPipes tells whether a call is os.Open, or an os.OpenFile of what is there already.
func waitsForPipes(call *ast.CallExpr) bool {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	if pkg, ok := f.X.(*ast.Ident); !ok || pkg.Name != "os" {
		return false
	}
	creates := false
	if f.Sel.Name == "OpenFile" && len(call.Args) == 3 {
		ast.Inspect(call.Args[1], func(node ast.Node) bool {
			flag, ok := node.(*ast.SelectorExpr)
			creates = creates || ok && (flag.Sel.Name == "O_CREATE" || flag.Sel.Name == "O_EXCL")
			return true
		})
	}
	return f.Sel.Name == "Open" || f.Sel.Name == "OpenFile" && !creates
}

// TestHypervisorsArePickedInOnePlace looks for packages, tests among them, that know which
// hypervisor runs the VMs. Those of e2e measure and try that very one.
func TestHypervisorsArePickedInOnePlace(t *testing.T) {
	knowing := []string{"internal/hypervisor", "e2e"}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		if slices.ContainsFunc(knowing, func(dir string) bool { return strings.HasPrefix(filepath.ToSlash(path), dir+"/") }) {
			return nil
		}
		for _, own := range ownImports(t, path) {
			if kind, ok := strings.CutPrefix(own, "internal/hypervisor/"); ok && kind != "pick" {
				t.Errorf("%s imports %s; internal/hypervisor/pick finds one", path, own)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestInterfacesAreNarrow looks for interfaces that are more than one thing, with those that
// they embed.
func TestInterfacesAreNarrow(t *testing.T) {
	const widest = 10
	named := map[string]*ast.InterfaceType{} // by directory and name
	eachFile(t, nil, func(path string) {
		inspect(t, path, func(node ast.Node, _ func(token.Pos) token.Position) bool {
			if spec, ok := node.(*ast.TypeSpec); ok {
				if i, ok := spec.Type.(*ast.InterfaceType); ok {
					named[filepath.Base(filepath.Dir(path))+"."+spec.Name.Name] = i
				}
			}
			return true
		})
	})
	eachFile(t, nil, func(path string) {
		inspect(t, path, func(node ast.Node, at func(token.Pos) token.Position) bool {
			if i, ok := node.(*ast.InterfaceType); ok {
				if n := methods(i, filepath.Base(filepath.Dir(path)), named); n > widest {
					t.Errorf("%s: an interface of %d methods, at most %d", at(i.Pos()), n, widest)
				}
			}
			return true
		})
	})
}

// embeddable is how many methods other modules' interfaces have that are embedded.
var embeddable = map[string]int{"net.Conn": 8, "io.Closer": 1, "error": 1}

// methods is how many methods an interface of a package has. Of those that are not named
// in this tree, and not known, nobody can tell: they count as too many.
func methods(i *ast.InterfaceType, pkg string, named map[string]*ast.InterfaceType) (n int) {
	for _, field := range i.Methods.List {
		name := selector(field.Type)
		if !strings.Contains(name, ".") && named[pkg+"."+name] != nil {
			name = pkg + "." + name
		}
		switch inner := named[name]; {
		case len(field.Names) > 0:
			n += len(field.Names)
		case inner != nil:
			n += methods(inner, strings.Split(name, ".")[0], named)
		case name == "": // a union of types
		case embeddable[name] > 0:
			n += embeddable[name]
		default:
			n += 100
		}
	}
	return n
}

// nameQEMU are files outside of internal/hypervisor that may name it, each with its reason.
var nameQEMU = map[string]string{
	"internal/cli/create.go":             "the flag is called so",
	"internal/cli/set.go":                "the flag is called so",
	"internal/machine/settings.go":       "the field of machine.json is, and the flag that set prints",
	"internal/machine/spec.go":           "the field of machine.json is",
	"internal/machinestore/vm.go":        "formats of disks are named as qemu-img names them",
	"internal/lifecycle/import.go":       "which converts them",
	"internal/guest/binfmt.go":           "in the guest, qemu-user runs programs of other architectures",
	"internal/guest/binfmt_linux.go":     "in the guest, qemu-user runs programs of other architectures",
	"internal/image/build/packages.go":   "the image has qemu-user",
	"internal/image/build/modulelist.go": "the name of a module of the guest's kernel, which is left out",
}

// TestNobodyNamesQEMU looks for what is about one hypervisor where all of them are meant.
func TestNobodyNamesQEMU(t *testing.T) {
	named := map[string]bool{}
	eachFile(t, []string{"internal/hypervisor", "e2e"}, func(path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		path = filepath.ToSlash(path)
		for i, line := range strings.Split(string(text), "\n") {
			if lower := strings.ToLower(line); !strings.Contains(lower, "qemu") && !strings.Contains(lower, "guest=") {
				continue
			}
			named[path] = true
			if nameQEMU[path] == "" {
				t.Errorf("%s:%d: what does it say of other hypervisors? %s", path, i+1, strings.TrimSpace(line))
			}
		}
	})
	for path := range nameQEMU {
		if !named[path] {
			t.Errorf("%s does not name QEMU any more, and needs no exception", path)
		}
	}
}
