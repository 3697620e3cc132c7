package qemu

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// QEMU does not say that a disk is full.
func TestNoRoomForDevices(t *testing.T) {
	failed := errors.New("An IO error has occurred")
	dir := t.TempDir()
	if err := orNoRoom(failed, filepath.Join(dir, "devices")); err != failed {
		t.Errorf("with room: %v", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if err := orNoRoom(failed, filepath.Join(dir, "devices")); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("without room: %v", err)
	}
	if err := orNoRoom(nil, filepath.Join(dir, "devices")); err != nil {
		t.Errorf("what was written: %v", err)
	}
}
