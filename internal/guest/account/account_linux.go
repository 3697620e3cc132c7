// Package account is the guest's users: who they are, and doing things as one of them.
package account

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// An Account is a user as a login makes one.
type Account struct {
	Name     string
	UID, GID uint32
	Groups   []uint32 // gid and the supplementary ones
	Home     string
	Shell    string
}

// Lookup reads the account of that name from passwd and group files,
// which are in the formats of passwd(5) and group(5).
func Lookup(name, passwd, group string) (Account, error) {
	var a Account
	err := EachRecord(passwd, 7, func(f []string) error {
		if f[0] != name || a.Name != "" {
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
		a = Account{Name: name, UID: uint32(uid), GID: uint32(gid), Home: f[5], Shell: f[6]}
		return nil
	})
	if err != nil {
		return a, err
	}
	if a.Name == "" {
		return a, fmt.Errorf("reading %s: no user %q", passwd, name)
	}
	if a.Shell == "" {
		a.Shell = "/bin/sh"
	}
	a.Groups = []uint32{a.GID}
	err = EachRecord(group, 4, func(f []string) error {
		if !slices.Contains(strings.Split(f[3], ","), name) {
			return nil
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err == nil && !slices.Contains(a.Groups, uint32(gid)) {
			a.Groups = append(a.Groups, uint32(gid))
		}
		return err
	})
	return a, err
}

// EachRecord calls do with the fields of every line that has n of them.
func EachRecord(path string, n int, do func([]string) error) error {
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
