package account

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

// As runs f as the account's user, as far as files and sockets are concerned: what f
// makes is the user's, and what the user may not open f cannot. f must do it in its own
// goroutine, and start no process. It is for PID 1; others stay who they are.
func (a Account) As(f func() error) error {
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
	if back := (Account{}).become(); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

// become sets this thread's effective user and groups.
func (a Account) become() error {
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, 0, keep); errno != 0 {
		return fmt.Errorf("becoming root: %w", errno)
	}
	var first uintptr
	if len(a.Groups) > 0 {
		first = uintptr(unsafe.Pointer(&a.Groups[0]))
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(a.Groups)), first, 0); errno != 0 {
		return fmt.Errorf("setting groups: %w", errno)
	}
	runtime.KeepAlive(a.Groups)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(a.GID), keep); errno != 0 {
		return fmt.Errorf("setting the group %d: %w", a.GID, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(a.UID), keep); errno != 0 {
		return fmt.Errorf("setting the user %d: %w", a.UID, errno)
	}
	return nil
}

// path is a path as the account's user means it: relative ones are in the home.
func (a Account) path(path string) (string, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return "", errors.New("it is no path")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(a.Home, path)
	}
	return path, nil
}

// Dial connects to a socket as the account's user.
func (a Account) Dial(path string) (conn net.Conn, err error) {
	if path, err = a.path(path); err != nil {
		return nil, fmt.Errorf("connecting to a socket: %w", err)
	}
	err = a.As(func() (err error) {
		conn, err = net.Dial("unix", path)
		return err
	})
	return conn, err
}

// A Socket is a socket of the account's user, and for him alone.
type Socket struct {
	net.Listener
	owner Account
	path  string
	made  os.FileInfo
}

// Listen listens on a socket that is the account's. There must be nothing at path.
func (a Account) Listen(path string) (*Socket, error) {
	path, err := a.path(path)
	if err != nil {
		return nil, fmt.Errorf("listening on a socket: %w", err)
	}
	s := &Socket{owner: a, path: path}
	// A socket has its descriptor's mode from the first moment on: unix(7).
	private := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
	}}
	err = a.As(func() (err error) {
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
func (s *Socket) Close() error {
	err := s.Listener.Close()
	return errors.Join(err, s.owner.As(func() error {
		if now, err := os.Lstat(s.path); err != nil || !os.SameFile(now, s.made) {
			return nil
		}
		return os.Remove(s.path)
	}))
}
