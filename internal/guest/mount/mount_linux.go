// Package mount mounts what the guest's file systems are made of.
package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A Point is one line of what would be fstab.
type Point struct {
	Source, Target, FSType string
	Flags                  uintptr // unix.MS_…
	Data                   string  // the file system's own options
	// Optional: a kernel without it makes a lesser machine, but makes one.
	Optional bool
}

// All makes the mounts in order and returns the errors of those that are
// not Optional.
func All(mounts []Point) error {
	var errs []error
	for _, m := range mounts {
		if err := m.Mount(); err != nil && !m.Optional {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Mount makes the mount, and the directory for it where there is none.
func (m Point) Mount() error {
	if err := os.MkdirAll(m.Target, 0o755); err != nil {
		return fmt.Errorf("mounting %s: %w", m.Target, err)
	}
	if err := unix.Mount(m.Source, m.Target, m.FSType, m.Flags, m.Data); err != nil {
		return fmt.Errorf("mounting %s (%s): %w", m.Target, m.FSType, err)
	}
	return nil
}
