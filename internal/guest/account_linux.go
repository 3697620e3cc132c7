package guest

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// An account is a user as a login makes one.
type account struct {
	name     string
	uid, gid uint32
	groups   []uint32 // gid and the supplementary ones
	home     string
	shell    string
}

// lookupAccount reads the account of that name from passwd and group files,
// which are in the formats of passwd(5) and group(5).
func lookupAccount(name, passwd, group string) (account, error) {
	var a account
	err := eachRecord(passwd, 7, func(f []string) error {
		if f[0] != name || a.name != "" {
			return nil
		}
		uid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return err
		}
		gid, err := strconv.ParseUint(f[3], 10, 32)
		if err != nil {
			return err
		}
		a = account{name: name, uid: uint32(uid), gid: uint32(gid), home: f[5], shell: f[6]}
		return nil
	})
	if err != nil {
		return a, err
	}
	if a.name == "" {
		return a, fmt.Errorf("reading %s: no user %q", passwd, name)
	}
	if a.shell == "" {
		a.shell = "/bin/sh"
	}
	a.groups = []uint32{a.gid}
	err = eachRecord(group, 4, func(f []string) error {
		if !slices.Contains(strings.Split(f[3], ","), name) {
			return nil
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && !slices.Contains(a.groups, uint32(gid)) {
			a.groups = append(a.groups, uint32(gid))
		}
		return err
	})
	return a, err
}

// eachRecord calls do with the fields of every line that has n of them.
func eachRecord(path string, n int, do func([]string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != n {
			continue
		}
		if err := do(fields); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}
