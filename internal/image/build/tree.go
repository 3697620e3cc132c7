package build

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
)

// A node is one file of the guest's root.
type node struct {
	typ      fs.FileMode // type bits only; 0 is a regular file
	mode     uint32      // permissions and set-ID bits, as in chmod(2)
	uid, gid int
	link     string      // a symlink's target
	data     io.ReaderAt // a regular file's content
	size     int64
	rdev     uint32
	xattrs   map[string]string
	children map[string]*node // of a directory
}

// A tree is the guest's root. Paths are relative and clean; those below bin,
// lib, lib64 and sbin are moved below usr, where Debian's merged layout has
// them.
type tree struct {
	root *node
}

// merged are the top-level names that are symlinks into usr.
var merged = []string{"bin", "lib", "lib64", "sbin"}

func newTree() *tree {
	t := &tree{root: dir(0o755)}
	for _, name := range merged {
		t.root.children[name] = &node{typ: fs.ModeSymlink, mode: 0o777, link: "usr/" + name}
	}
	return t
}

func dir(mode uint32) *node {
	return &node{typ: fs.ModeDir, mode: mode, children: map[string]*node{}}
}

func file(mode uint32, content []byte) *node {
	return &node{mode: mode, data: bytes.NewReader(content), size: int64(len(content))}
}

func symlink(target string) *node {
	return &node{typ: fs.ModeSymlink, mode: 0o777, link: target}
}

// mergeUsr returns where a path is in the merged layout.
func mergeUsr(name string) string {
	top, _, _ := strings.Cut(name, "/")
	for _, m := range merged {
		if top == m {
			return "usr/" + name
		}
	}
	return name
}

// get returns the node at name in the merged layout, or nil. It does not follow
// symlinks.
func (t *tree) get(name string) *node { return t.at(mergeUsr(name)) }

// at returns the node at exactly that path, or nil.
func (t *tree) at(name string) *node {
	n := t.root
	if name == "." {
		return n
	}
	for part := range strings.SplitSeq(name, "/") {
		if n == nil || n.typ != fs.ModeDir {
			return nil
		}
		n = n.children[part]
	}
	return n
}

// put places n at name, with directories above it as needed. A directory that
// is already there keeps its content and takes n's owner and mode; another file
// is replaced.
func (t *tree) put(name string, n *node) error {
	if name == "." {
		if n.typ != fs.ModeDir {
			return fmt.Errorf("the root is no directory")
		}
		t.root.mode, t.root.uid, t.root.gid = n.mode, n.uid, n.gid
		return nil
	}
	for _, m := range merged {
		if name == m && n.typ != fs.ModeDir {
			return nil // the package's own symlink of the merged layout
		}
	}
	name = mergeUsr(name)
	parent, err := t.mkdirAll(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	have := parent.children[base]
	switch {
	case have == nil || have.typ != fs.ModeDir && n.typ != fs.ModeDir:
		parent.children[base] = n
	case have.typ == fs.ModeDir && n.typ == fs.ModeDir:
		have.mode, have.uid, have.gid = n.mode, n.uid, n.gid
	default:
		return fmt.Errorf("%s is a directory in one package and none in another", name)
	}
	return nil
}

func (t *tree) mkdirAll(name string) (*node, error) {
	n := t.root
	if name == "." {
		return n, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		child := n.children[part]
		if child == nil {
			child = dir(0o755)
			n.children[part] = child
		}
		if child.typ != fs.ModeDir {
			return nil, fmt.Errorf("%s is below %s, which is no directory", name, part)
		}
		n = child
	}
	return n, nil
}

// remove deletes what is at name, if anything.
func (t *tree) remove(name string) {
	name = mergeUsr(name)
	if parent := t.get(path.Dir(name)); parent != nil && parent.typ == fs.ModeDir {
		delete(parent.children, path.Base(name))
	}
}

// read returns a regular file's content.
func (t *tree) read(name string) ([]byte, error) {
	n := t.get(name)
	if n == nil || n.typ != 0 {
		return nil, fmt.Errorf("the packages have no file %s", name)
	}
	data := make([]byte, n.size)
	if _, err := n.data.ReadAt(data, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// names returns the sorted names in a directory.
func (n *node) names() []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// walk visits all nodes, parents first, in the order of their names.
func (t *tree) walk(visit func(name string, n *node) error) error {
	var down func(name string, n *node) error
	down = func(name string, n *node) error {
		if err := visit(name, n); err != nil {
			return err
		}
		for _, child := range n.names() {
			if err := down(path.Join(name, child), n.children[child]); err != nil {
				return err
			}
		}
		return nil
	}
	return down(".", t.root)
}
