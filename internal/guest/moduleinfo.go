package guest

import (
	"bytes"
	"path"
	"strings"
)

// moduleName returns a kernel module's name from its path: the kernel takes "-"
// and "_" for the same.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// moduleDepends returns the names of the modules that a module's file says it
// needs, from the "depends=" string that the kernel's build puts into its
// .modinfo section.
func moduleDepends(ko []byte) []string {
	const key = "\x00depends="
	i := bytes.Index(ko, []byte(key))
	if i < 0 {
		return nil
	}
	value, _, _ := bytes.Cut(ko[i+len(key):], []byte{0})
	if len(value) == 0 {
		return nil
	}
	names := strings.Split(string(value), ",")
	for i, name := range names {
		names[i] = strings.ReplaceAll(name, "-", "_")
	}
	return names
}

// moduleList returns the paths in a list of modules: one a line, empty lines and
// those that begin with # left out.
func moduleList(text string) []string {
	var paths []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			paths = append(paths, line)
		}
	}
	return paths
}
