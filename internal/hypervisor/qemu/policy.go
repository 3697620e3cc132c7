package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/confine"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// systemTrees hold programs, libraries and firmware, which everybody may read.
var systemTrees = []string{"/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"}

// systemFiles are the few others that a C library, and QEMU's, look at.
var systemFiles = []string{"/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/sys/devices/system/cpu", "/proc/cpuinfo", "/proc/meminfo"}

// policy is what QEMU may open for a VM: itself, what it consists of, and what has no
// descriptor. It has all else as descriptors.
func (q *QEMU) policy(cfg hypervisor.Config) confine.Policy {
	read := slices.Concat(systemTrees, systemFiles, []string{q.Path}, q.parts, []string{cfg.Kernel})
	if cfg.Initrd != "" {
		read = append(read, cfg.Initrd)
	}
	return confine.Policy{Read: read, Devices: []string{"/dev/kvm", "/dev/urandom", "/dev/random"}}
}

// isSystem tells whether everybody may read what is at a path.
func isSystem(path string) bool {
	return slices.ContainsFunc(systemTrees, func(tree string) bool { return strings.HasPrefix(path, tree+"/") })
}

// mappedFiles are the files outside of the system of which a process consists: programs
// and libraries, wherever the user has them. The error is that this system does not tell.
func mappedFiles(pid int) ([]string, error) {
	maps, err := bounded.ReadFile(fmt.Sprintf("/proc/%d/maps", pid), bounded.MaxDocument)
	if err != nil {
		return nil, err
	}
	var files []string
	for line := range strings.Lines(string(maps)) {
		_, path, found := strings.Cut(strings.TrimSuffix(line, "\n"), " /")
		if path = "/" + path; found && !isSystem(path) {
			files = append(files, path)
		}
	}
	return files, nil
}

// dataDirs reads what `-L help` prints, a directory a line, and returns those outside of
// the system, with the files to which links in them lead.
func dataDirs(output string) []string {
	var paths []string
	for line := range strings.Lines(output) {
		dir := strings.TrimSpace(line)
		if !filepath.IsAbs(dir) || isSystem(dir) {
			continue
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		paths = append(paths, dir)
		for _, e := range entries {
			if e.Type()&os.ModeSymlink == 0 {
				continue
			}
			if target, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name())); err == nil && !isSystem(target) {
				paths = append(paths, target)
			}
		}
	}
	return paths
}
