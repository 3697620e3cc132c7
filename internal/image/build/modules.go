package build

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"

	"github.com/ulikunitz/xz"
)

// maxModule bounds a decompressed kernel module, in bytes.
const maxModule = 64 << 20

// expandModule decompresses a .ko.xz and takes its signature off.
func expandModule(r io.Reader) ([]byte, error) {
	x, err := xz.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(x, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	if len(data) > maxModule {
		return nil, fmt.Errorf("it has more than %d bytes", maxModule)
	}
	return unsigned(data), nil
}

// signatureMark ends a signed module (include/linux/module_signature.h).
const signatureMark = "~Module signature appended~\n"

// unsigned returns a module without its appended signature, if it has one. The
// kernel would verify an RSA signature for each of some forty modules on the
// way to a running engine, which took a third of the loading time under
// emulation, and what a loaded module came from has been verified already: the
// package by its digest, the image by its own. The price is the taint flag E.
func unsigned(ko []byte) []byte {
	body, ok := bytes.CutSuffix(ko, []byte(signatureMark))
	const info = 12 // struct module_signature; its last four bytes are the signature's length
	if !ok || len(body) < info {
		return ko
	}
	size := int64(binary.BigEndian.Uint32(body[len(body)-4:]))
	if size > int64(len(body)-info) {
		return ko
	}
	return body[:int64(len(body)-info)-size]
}

// A module is a kernel module and what its .modinfo section says.
type module struct {
	name    string // with "_" for "-"
	path    string // below usr/lib/modules/VERSION/
	depends []string
	softdep []string // as they stand: "pre: a b post: c"
	aliases []string
	node    *node
}

// A moduleSet are the modules of one kernel.
type moduleSet struct {
	dir    string // "usr/lib/modules/VERSION"
	byName map[string]*module
	pruned []error // one for each module that was left out for want of another
}

// readModules reads all modules of the tree's kernel.
func readModules(t *tree, version string) (*moduleSet, error) {
	s := &moduleSet{dir: "usr/lib/modules/" + version, byName: map[string]*module{}}
	top := t.get(s.dir)
	if top == nil {
		return nil, fmt.Errorf("the kernel package has no modules in %s", s.dir)
	}
	err := (&tree{root: top}).walk(func(name string, n *node) error {
		if n.typ != 0 || !strings.HasSuffix(name, ".ko") {
			return nil
		}
		m, err := readModule(name, n)
		if err != nil {
			return fmt.Errorf("reading module %s: %w", name, err)
		}
		s.byName[m.name] = m
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.prune(t)
	return s, nil
}

// prune removes the modules that need one which was left out. keptModules is
// meant to name none of them, but another kernel may have new dependencies, and
// that shall not keep people from building.
func (s *moduleSet) prune(t *tree) {
	for again := true; again; {
		again = false
		for _, m := range s.sorted() {
			for _, d := range m.depends {
				if s.byName[d] != nil {
					continue
				}
				s.pruned = append(s.pruned, fmt.Errorf("leaving out module %s, which needs %s", m.name, d))
				delete(s.byName, m.name)
				t.remove(s.dir + "/" + m.path)
				again = true
				break
			}
		}
	}
}

func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

func readModule(name string, n *node) (*module, error) {
	f, err := elf.NewFile(n.data)
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	m := &module{name: moduleName(strings.TrimSuffix(path.Base(name), ".ko")), path: name, node: n}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		switch key {
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					m.depends = append(m.depends, moduleName(d))
				}
			}
		case "alias":
			m.aliases = append(m.aliases, value)
		case "softdep":
			m.softdep = append(m.softdep, value)
		}
	}
	return m, nil
}

// sorted returns the modules by name.
func (s *moduleSet) sorted() []*module {
	list := make([]*module, 0, len(s.byName))
	for _, m := range s.byName {
		list = append(list, m)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list
}

// order returns the modules named and all they depend on, each after what it
// needs, except those that loaded already holds; it adds them there. Names that
// builtin holds need no module.
func (s *moduleSet) order(names []string, builtin, loaded map[string]bool) ([]*module, error) {
	var out []*module
	var visit func(name string) error
	visit = func(name string) error {
		if loaded[name] {
			return nil
		}
		m := s.byName[name]
		if m == nil {
			if builtin[name] {
				return nil
			}
			return fmt.Errorf("the kernel has no module %s", name)
		}
		loaded[name] = true
		for _, d := range m.depends {
			if err := visit(d); err != nil {
				return err
			}
		}
		out = append(out, m)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// builtins returns the names of the modules that are part of the kernel.
func (s *moduleSet) builtins(t *tree) (map[string]bool, error) {
	text, err := t.read(s.dir + "/modules.builtin")
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for line := range strings.SplitSeq(string(text), "\n") {
		if line != "" {
			names[moduleName(strings.TrimSuffix(path.Base(line), ".ko"))] = true
		}
	}
	return names, nil
}

// index writes what depmod(8) would for the modules that are there: the texts that
// busybox's modprobe reads, and the indexes of kmod's, which people bring in containers.
// builtin are the modules that are part of the kernel.
func (s *moduleSet) index(t *tree, builtin map[string]bool) error {
	var dep, alias, softdep, devname bytes.Buffer
	var depBin, aliasBin, builtinBin, builtinAliasBin moduleIndex
	devname.WriteString("# Device nodes to trigger on-demand module loading.\n")
	for i, m := range s.byPath() {
		all, err := s.order([]string{m.name}, nil, map[string]bool{})
		if err != nil {
			return err
		}
		line := m.path + ":"
		for i := len(all) - 2; i >= 0; i-- { // all but itself; modules.dep has the last loaded first
			line += " " + all[i].path
		}
		dep.WriteString(line + "\n")
		depBin.add(m.name, line, uint32(i))
		for _, a := range m.aliases {
			fmt.Fprintf(&alias, "alias %s %s\n", a, m.name)
			aliasBin.add(aliasKey(a), m.name, uint32(i))
		}
		for _, d := range m.softdep {
			fmt.Fprintf(&softdep, "softdep %s %s\n", m.name, d)
		}
		if node, ok := m.deviceNode(); ok {
			fmt.Fprintf(&devname, "%s %s\n", m.name, node)
		}
	}
	for name := range builtin {
		builtinBin.add(name, "", 0)
	}
	if err := s.builtinAliases(t, &builtinAliasBin); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"modules.dep": dep.Bytes(), "modules.alias": alias.Bytes(), "modules.softdep": softdep.Bytes(), "modules.devname": devname.Bytes(),
		"modules.dep.bin": depBin.bytes(), "modules.alias.bin": aliasBin.bytes(),
		"modules.builtin.bin": builtinBin.bytes(), "modules.builtin.alias.bin": builtinAliasBin.bytes(),
		// modprobe complains where they are missing; no module asks for a symbol by name.
		"modules.symbols": nil, "modules.symbols.bin": new(moduleIndex).bytes(),
	} {
		if err := t.put(s.dir+"/"+name, file(0o644, data)); err != nil {
			return err
		}
	}
	return nil
}

// deviceNode returns the device node whose opening is to load the module, as a line of
// modules.devname has it: its name below /dev, and "c" or "b" with its numbers. It is what
// the aliases devname:NAME and char-major-MAJOR-MINOR say together.
func (m *module) deviceNode() (string, bool) {
	var name, numbers string
	for _, a := range m.aliases {
		if n, ok := strings.CutPrefix(a, "devname:"); ok {
			name = n
		}
		for prefix, kind := range map[string]string{"char-major-": "c", "block-major-": "b"} {
			var major, minor uint
			if rest, ok := strings.CutPrefix(a, prefix); ok {
				if n, _ := fmt.Sscanf(rest, "%d-%d", &major, &minor); n == 2 {
					numbers = fmt.Sprintf("%s%d:%d", kind, major, minor)
				}
			}
		}
	}
	return name + " " + numbers, name != "" && numbers != ""
}

// builtinAliases adds the aliases of what is part of the kernel, from lines of
// "MODULE.alias=ALIAS" that end with a zero byte each. Kernels before 5.2 have none.
func (s *moduleSet) builtinAliases(t *tree, x *moduleIndex) error {
	const from = "/modules.builtin.modinfo"
	if t.get(s.dir+from) == nil {
		return nil
	}
	info, err := t.read(s.dir + from)
	if err != nil {
		return err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(field), "=")
		if name, ok := strings.CutSuffix(key, ".alias"); ok {
			x.add(aliasKey(value), moduleName(name), 0)
		}
	}
	return nil
}

func (s *moduleSet) byPath() []*module {
	list := s.sorted()
	sort.Slice(list, func(i, j int) bool { return list[i].path < list[j].path })
	return list
}

// loadList is a list of modules in the order of loading: one path a line.
func loadList(prefix string, modules []*module) []byte {
	var b bytes.Buffer
	for _, m := range modules {
		fmt.Fprintf(&b, "%s/%s\n", prefix, m.path)
	}
	return b.Bytes()
}
