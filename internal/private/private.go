// Package private tells what is this user's alone: directories that nobody else can put
// something into, and sockets at whose other end is this user.
package private

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ownHint is the way out where nothing can be closed.
const ownHint = "set HYVE_HOME to a directory of your own"

// maxLinks bounds the symbolic links on a path, as the kernel does.
const maxLinks = 40

// An OpenError says that others can change what is in a directory.
type OpenError struct {
	Path string // the directory, or the one on the way to it, that is open
	Why  string
	hint string
}

func (e *OpenError) Error() string { return e.Path + " " + e.Why }

// Hint says how to close it.
func (e *OpenError) Hint() string { return e.hint }

// Tree checks a directory, which need not exist, as OpenSSH's StrictModes does: it has to
// be this user's, and nobody else may write to it nor to one on the way there, links
// included, so that nobody can put another in its place. A directory like /tmp, where all
// may write and only owners remove, may be on the way.
func Tree(path string) error {
	rest := strings.Split(filepath.Clean(path), "/")
	at, links := "/", 0
	parent, err := os.Lstat(at)
	if err != nil {
		return err
	}
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			if parent, err = os.Lstat(at); err != nil {
				return err
			}
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			return closed(at, parent, nil) // it is yet to be made
		}
		if err != nil {
			return err
		}
		if err := closed(at, parent, info); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at, parent = next, info
			continue
		}
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return &OpenError{next, "cannot be followed", ownHint}
		}
		rest = append(strings.Split(target, "/"), rest...)
		if filepath.IsAbs(target) {
			at = "/"
			if parent, err = os.Lstat(at); err != nil {
				return err
			}
		}
	}
	switch {
	case !parent.IsDir():
		return &OpenError{at, "is no directory", ownHint}
	case owner(parent) != os.Geteuid():
		return &OpenError{at, fmt.Sprintf("belongs to another user (%d)", owner(parent)), ownHint}
	case parent.Mode().Perm()&0o022 != 0:
		return &OpenError{at, "may be written by other users", "close it with: chmod go-w " + quote(at)}
	}
	return nil
}

// closed checks a directory on the way to entry, which is nil if it does not exist yet.
func closed(path string, dir, entry fs.FileInfo) error {
	if by := owner(dir); by != 0 && by != os.Geteuid() {
		return &OpenError{path, fmt.Sprintf("belongs to another user (%d)", by), ownHint}
	}
	if dir.Mode().Perm()&0o022 == 0 || dir.Mode().Perm()&0o002 == 0 && isOwnGroup(dir) {
		return nil
	}
	if dir.Mode()&fs.ModeSticky != 0 && (entry == nil || owner(entry) == 0 || owner(entry) == os.Geteuid()) {
		return nil
	}
	return &OpenError{path, "may be written by other users", "close it with: chmod go-w " + quote(path)}
}

// isOwnGroup tells whether a directory's group has its owner's name and no other members:
// distributions give each user one, and let its members write by default.
func isOwnGroup(dir fs.FileInfo) bool {
	stat, ok := dir.Sys().(*syscall.Stat_t)
	return ok && os.Geteuid() != 0 && int(stat.Gid) == os.Getgid() && loneGroup(int(stat.Gid))
}

// Dir tells whether path is itself a directory that only this user may use.
func Dir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir() && owner(info) == os.Geteuid() && info.Mode().Perm()&0o077 == 0
}

// Dial connects to a unix socket of this user's: in a private directory, itself private, and
// with a process of this user's at the other end.
func Dial(ctx context.Context, socket string) (net.Conn, error) {
	info, err := os.Lstat(socket)
	switch {
	case err != nil:
		return nil, err
	case !Dir(filepath.Dir(socket)):
		return nil, fmt.Errorf("connecting to %s: its directory is not private to this user", socket)
	case info.Mode()&fs.ModeSocket == 0 || owner(info) != os.Geteuid() || info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("connecting to %s: it is no private socket of this user", socket)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	uid, err := peer(conn.(*net.UnixConn))
	if err == nil && uid != os.Geteuid() {
		err = fmt.Errorf("connecting to %s: user %d is at the other end", socket, uid)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func owner(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}

// peer is the user at the other end.
func peer(conn *net.UnixConn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	asked := raw.Control(func(fd uintptr) { uid, err = peerOf(int(fd)) })
	return uid, errors.Join(asked, err)
}

// quote makes a path a word for a shell.
func quote(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool { return !strings.ContainsRune("/._-+,@", r) && (r > 'z' || r < '0') }) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
