package datadisk

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/ioctl"
)

// The requests by which a file system holds back every write, FIFREEZE and FITHAW
// of linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// Freeze has the disk's file system clean, with nothing in its journal, and hold back every
// write until Thaw.
func Freeze() error { return freeze(fiFreeze) }

// Thaw lets what Freeze held back go on.
func Thaw() error { return freeze(fiThaw) }

func freeze(request uintptr) error {
	dir, err := os.Open(Dir)
	if err != nil {
		return fmt.Errorf("freezing the file system: %w", err)
	}
	defer dir.Close()
	if err := ioctl.Call(dir.Fd(), request, make([]byte, 4)); err != nil {
		return fmt.Errorf("freezing the file system: %w", err)
	}
	return nil
}

// Sync has everything on the data disk that was written: first its own file system,
// where nearly all is, then what lies in files of that, or beside it, and may hang.
func Sync() error {
	dir, err := os.Open(Dir)
	if err != nil {
		return fmt.Errorf("syncing the data disk: %w", err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("syncing the data disk: %w", err)
	}
	unix.Sync()
	return nil
}
