package supervisor

import (
	"os"

	"golang.org/x/sys/unix"
)

// becomeStderr makes the file what this process' standard error is.
func becomeStderr(file *os.File) error {
	return os.NewSyscallError("dup2", unix.Dup2(int(file.Fd()), 2))
}
