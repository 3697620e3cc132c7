package supervisor

import (
	"os"

	"golang.org/x/sys/unix"
)

// becomeStderr makes the file what this process' standard error is.
func becomeStderr(file *os.File) error {
	return os.NewSyscallError("dup3", unix.Dup3(int(file.Fd()), 2, 0))
}
