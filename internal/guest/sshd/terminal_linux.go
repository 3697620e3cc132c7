package sshd

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// nonblocking returns a file of its own for what f is open on, whose reads can be given a
// deadline. It closes f. Fd of what it returns would undo that.
func nonblocking(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// control calls do with the descriptor of a non-blocking file.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := raw.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}

func setSize(terminal *os.File, w windowChange) error {
	const most = 1<<16 - 1
	return control(terminal, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{
			Row: uint16(min(w.Rows, most)), Col: uint16(min(w.Columns, most)),
			Xpixel: uint16(min(w.Width, most)), Ypixel: uint16(min(w.Height, most)),
		})
	})
}

// maxTerminal is more than Linux keeps, in bytes, of what was written to a terminal.
const maxTerminal = 1 << 20

// copyTerminal copies what is written to a terminal, until the last program on it has ended,
// or the deadline for reading is over and nothing waits in it any more. What others in the
// background write after that is not waited for.
func copyTerminal(to io.Writer, terminal *os.File) {
	if _, err := io.Copy(to, terminal); !errors.Is(err, os.ErrDeadlineExceeded) {
		return // EIO, when the last program has ended
	}
	b := make([]byte, 32<<10)
	for copied := 0; copied < maxTerminal; {
		n := 0
		err := control(terminal, func(fd int) (err error) {
			n, err = unix.Read(fd, b)
			return err
		})
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return // EAGAIN: it is empty
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
		copied += n
	}
}
