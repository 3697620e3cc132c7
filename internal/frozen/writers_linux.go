package frozen

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// errWritten says that a disk is not this machine's alone.
var errWritten = errors.New("another program has the disk open to write")

// unwritten makes sure that nobody has a file open to write or mapped so: whoever opens
// it later leaves a trace in its times with the first byte. A lease to read is given for
// no other file, see fcntl(2), and readers do not matter. The error is errWritten, or that
// the file system or the file's owner allows no leases.
func unwritten(file *os.File) error {
	_, err := unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, err = unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		return err
	}
	if errors.Is(err, unix.EAGAIN) {
		return errWritten
	}
	return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
}
