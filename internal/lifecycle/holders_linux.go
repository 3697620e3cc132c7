package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// killHolders kills the processes of this user that have the file at path open.
func killHolders(path string) error {
	target, err := os.Stat(path)
	if err != nil {
		return err
	}
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return err
	}
	killed := map[int]bool{os.Getpid(): true}
	for _, fd := range descriptors {
		// Other users' processes cannot be read; they cannot hold our files either.
		if info, err := os.Stat(fd); err != nil || !os.SameFile(info, target) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(fd))))
		if err != nil || killed[pid] {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("killing process %d: %w", pid, err)
		}
		killed[pid] = true
	}
	return nil
}
