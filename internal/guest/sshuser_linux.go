package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// as runs f as the account's user, as far as files and sockets are concerned: what f
// makes is the user's, and what the user may not open f cannot. f must do it in its own
// goroutine, and start no process. It is for PID 1; others stay who they are.
func (a account) as(f func() error) error {
	if os.Geteuid() != 0 {
		return f()
	}
	// The kernel keeps credentials by thread. One that cannot be brought back to what it
	// was stays locked, and so ends with its goroutine.
	runtime.LockOSThread()
	err := a.become()
	if err == nil {
		err = f()
	}
	if back := (account{}).become(); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

// become sets this thread's effective user and groups.
func (a account) become() error {
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, 0, keep); errno != 0 {
		return fmt.Errorf("becoming root: %w", errno)
	}
	var first uintptr
	if len(a.groups) > 0 {
		first = uintptr(unsafe.Pointer(&a.groups[0]))
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(a.groups)), first, 0); errno != 0 {
		return fmt.Errorf("setting groups: %w", errno)
	}
	runtime.KeepAlive(a.groups)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(a.gid), keep); errno != 0 {
		return fmt.Errorf("setting the group %d: %w", a.gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(a.uid), keep); errno != 0 {
		return fmt.Errorf("setting the user %d: %w", a.uid, errno)
	}
	return nil
}

// path is a path as the account's user means it: relative ones are in the home.
func (a account) path(path string) (string, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return "", errors.New("it is no path")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(a.home, path)
	}
	return path, nil
}

// dialSocket connects to a socket as the account's user.
func (a account) dialSocket(path string) (conn net.Conn, err error) {
	if path, err = a.path(path); err != nil {
		return nil, fmt.Errorf("connecting to a socket: %w", err)
	}
	err = a.as(func() (err error) {
		conn, err = net.Dial("unix", path)
		return err
	})
	return conn, err
}

// A userSocket is a socket of the account's user, and for him alone.
type userSocket struct {
	net.Listener
	owner account
	path  string
	made  os.FileInfo
}

// listenSocket listens on a socket that is the account's. There must be nothing at path.
func (a account) listenSocket(path string) (*userSocket, error) {
	path, err := a.path(path)
	if err != nil {
		return nil, fmt.Errorf("listening on a socket: %w", err)
	}
	s := &userSocket{owner: a, path: path}
	// A socket has its descriptor's mode from the first moment on: unix(7).
	private := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
	}}
	err = a.as(func() (err error) {
		if s.Listener, err = private.Listen(context.Background(), "unix", path); err != nil {
			return err
		}
		s.Listener.(*net.UnixListener).SetUnlinkOnClose(false)
		if s.made, err = os.Lstat(path); err != nil {
			s.Listener.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends it and removes the socket, if it is still the one that was made.
func (s *userSocket) Close() error {
	err := s.Listener.Close()
	return errors.Join(err, s.owner.as(func() error {
		if now, err := os.Lstat(s.path); err != nil || !os.SameFile(now, s.made) {
			return nil
		}
		return os.Remove(s.path)
	}))
}
