package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// clone makes a file that shares all blocks with another, or nothing.
func clone(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(unix.IoctlFileClone(int(out.Fd()), int(in.Fd())), out.Close())
	if err != nil {
		os.Remove(to)
	}
	return err
}
