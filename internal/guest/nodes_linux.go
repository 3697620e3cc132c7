package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/account"
)

// setUpNodes makes the nodes in dev that stand for modules, as the list at devname has
// them, and gives all that are there to whom they belong. group is the file of groups.
func (d *devices) setUpNodes(dev, devname, group string) error {
	groups := map[string]int{}
	err := account.EachRecord(group, 4, func(f []string) (err error) {
		groups[f[0]], err = strconv.Atoi(f[2])
		return err
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.groups = groups // nodes that come from now on are seen to as they come
	d.mu.Unlock()
	text, err := os.ReadFile(devname)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading which nodes stand for modules: %w", err)
	}
	var errs []error
	for _, n := range parseStaticNodes(string(text)) {
		errs = append(errs, makeNode(dev, n))
	}
	err = filepath.WalkDir(dev, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() && file != dev && isMountPoint(file) {
			return fs.SkipDir
		}
		if e.Type()&fs.ModeDevice != 0 {
			errs = append(errs, openTo(dev, file[len(dev)+1:], groups))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// makeNode makes a static node, for root alone. One that the kernel has made stays.
func makeNode(dev string, n staticNode) error {
	file := filepath.Join(dev, n.name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("making the node %s: %w", n.name, err)
	}
	mode := uint32(unix.S_IFCHR | 0o600)
	if n.block {
		mode = unix.S_IFBLK | 0o600
	}
	err := unix.Mknod(file, mode, int(unix.Mkdev(n.major, n.minor)))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("making the node %s: %w", n.name, err)
	}
	return nil
}

// openTo gives the node of that name to whom it belongs, and its other name. One that has
// gone again is none.
func openTo(dev, name string, groups map[string]int) error {
	file := filepath.Join(dev, name)
	var st unix.Stat_t
	if unix.Lstat(file, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR && st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil
	}
	if link := nodeLinks[name]; link != "" {
		if err := os.Symlink(name, filepath.Join(dev, link)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("linking the node %s: %w", name, err)
		}
	}
	rule, ok := ruleOf(name, st.Mode&unix.S_IFMT == unix.S_IFBLK)
	if !ok {
		return nil
	}
	err := os.Chown(file, 0, groups[rule.group])
	if err = errors.Join(err, os.Chmod(file, fs.FileMode(rule.mode))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening the node %s: %w", name, err)
	}
	return nil
}

// isMountPoint tells whether a directory is another file system than the one above it.
func isMountPoint(dir string) bool {
	var here, above unix.Stat_t
	return unix.Lstat(dir, &here) == nil && unix.Lstat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev
}

// devname is the list of static nodes of the running kernel.
func devname() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("asking for the kernel's version: %w", err)
	}
	return "/lib/modules/" + strings.TrimRight(string(u.Release[:]), "\x00") + "/modules.devname", nil
}
