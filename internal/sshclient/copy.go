package sshclient

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// A Location is one end of a copy: a path on the host, or in a machine.
type Location struct {
	User    string // "" is the machine's own
	Machine string // "" is the host
	Path    string
}

var userName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]*$`)

// ParseLocation reads [[USER@]MACHINE:]PATH. The machine "localhost" is the host, for
// paths on it that hold a colon. A path that begins with / or . is one of the host.
func ParseLocation(s string) (Location, error) {
	where, path, remote := strings.Cut(s, ":")
	if !remote || strings.HasPrefix(s, "/") || strings.HasPrefix(s, ".") {
		return Location{Path: s}, nil
	}
	user, name, hasUser := strings.Cut(where, "@")
	if !hasUser {
		user, name = "", where
	}
	if name == "localhost" {
		return Location{Path: path}, nil
	}
	if name == "" {
		return Location{}, fmt.Errorf("%q names no machine before the colon", s)
	}
	if hasUser && !userName.MatchString(user) {
		return Location{}, fmt.Errorf("%q is no user's name", user)
	}
	return Location{User: user, Machine: name, Path: path}, nil
}

// CopyOptions say how to copy.
type CopyOptions struct {
	Recursive bool
	Delta     bool // send differences only: rsync in place of scp, needed at both ends
	Quiet     bool
}

// An End is a Location and, if that is in a machine, how to reach it.
type End struct {
	Location
	Access Access
}

// ErrNoSCP and ErrNoRsync say that the host lacks the program.
var (
	ErrNoSCP   = errors.New("there is no scp on this host")
	ErrNoRsync = errors.New("there is no rsync on this host")
)

// CopyCommand returns the command that copies from one end to the other, through the host
// where both are machines. cleanup removes what the command needed, when it has ended.
func CopyCommand(from, to End, options CopyOptions) (cmd *exec.Cmd, cleanup func(), err error) {
	program, missing := "scp", ErrNoSCP
	if options.Delta {
		program, missing = "rsync", ErrNoRsync
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, nil, missing
	}
	hosts := map[string]Access{}
	source, target := from.argument("from", hosts), to.argument("to", hosts)
	// Two machines have ports and keys of their own, which options of the command line
	// could not tell apart.
	dir, err := os.MkdirTemp("", "hyve-scp-")
	if err != nil {
		return nil, nil, fmt.Errorf("writing a configuration for %s: %w", program, err)
	}
	cleanup = func() { os.RemoveAll(dir) }
	file := filepath.Join(dir, "ssh_config")
	if err := os.WriteFile(file, []byte(config(hosts)), 0o600); err != nil {
		cleanup()
		return nil, nil, fmt.Errorf("writing a configuration for %s: %w", program, err)
	}
	args := []string{"-3", "-F", file}
	if options.Delta {
		args = []string{"-e", `ssh -F "` + file + `"`}
		if !options.Quiet {
			args = append(args, "--progress")
		}
	}
	if options.Recursive {
		args = append(args, "-r")
	}
	if options.Quiet {
		args = append(args, "-q")
	}
	return exec.Command(path, append(args, "--", source, target)...), cleanup, nil
}

// argument is the end as scp and rsync take it.
func (e End) argument(alias string, hosts map[string]Access) string {
	if e.Machine == "" {
		// Relative names are made plain: they could hold a colon, or be a flag.
		if !filepath.IsAbs(e.Path) && !strings.HasPrefix(e.Path, ".") {
			return "./" + e.Path
		}
		return e.Path
	}
	access := e.Access
	if e.User != "" {
		access.User = e.User
	}
	hosts[alias] = access
	return alias + ":" + e.Path
}
