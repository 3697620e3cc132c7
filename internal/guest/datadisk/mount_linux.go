package datadisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/mount"
	"github.com/hyve-vm/hyve/internal/guest/process"
)

// Dir is where the data disk is mounted; persistentDirs of it appear at the
// same paths of the root. The layout is boot2docker's, whose disks are taken.
const Dir = "/mnt/data"

var persistentDirs = []struct {
	path string
	mode os.FileMode
}{
	{"/var/lib/docker", 0o710},
	{"/var/lib/containerd", 0o711},
	{"/var/lib/boot2docker", 0o755},
}

// boot2dockerDirs are there for who writes a file into them: docker-machine when it
// provisions, and people who add a certificate.
var boot2dockerDirs = []string{"certs", "etc/docker/certs.d"}

// Mount makes the file system of the disk of that name, as "vdb", if the disk is blank,
// repairs and grows it where needed, and mounts what is to persist.
func Mount(name string, r *process.Reaper, logf func(string, ...any)) error {
	device, fs, err := prepare(name, r, logf)
	if err != nil {
		return err
	}
	if err := mountExt4(device, r, logf); err != nil {
		return err
	}
	size, err := Size(filepath.Base(device))
	if err == nil {
		err = grow(fs, size, logf)
	}
	if err != nil {
		// A disk that stayed small still makes a machine.
		logf("%v", err)
	}
	return bindPersistent()
}

// mountExt4 mounts the data disk, which replays its journal after a crash. What
// cannot be mounted is checked and tried once more.
func mountExt4(device string, r *process.Reaper, logf func(string, ...any)) error {
	m := mount.Point{Source: device, Target: Dir, FSType: "ext4", Flags: unix.MS_NOATIME,
		Data: "discard,errors=remount-ro"}
	err := m.Mount()
	if err == nil {
		return nil
	}
	logf("%v; checking the disk", err)
	if checked := fsck(device, r, logf); checked != nil {
		return fmt.Errorf("%w; %w", err, checked)
	}
	if err := m.Mount(); err != nil {
		return &damagedError{err}
	}
	return nil
}

// bindPersistent shows the data disk's directories at their places.
func bindPersistent() error {
	for _, dir := range persistentDirs {
		source := Dir + dir.path
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			return fmt.Errorf("making %s: %w", source, err)
		}
		if err := os.Mkdir(source, dir.mode); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("making %s: %w", source, err)
		}
		m := mount.Point{Source: source, Target: dir.path, Flags: unix.MS_BIND}
		if err := m.Mount(); err != nil {
			return err
		}
	}
	for _, dir := range boot2dockerDirs {
		if err := os.MkdirAll(filepath.Join("/var/lib/boot2docker", dir), 0o755); err != nil {
			return fmt.Errorf("making a directory of boot2docker's: %w", err)
		}
	}
	return nil
}

// Unmount unmounts what lies on the data disk, last mounted first, and the
// disk itself, so that its file system is clean.
func Unmount() error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("unmounting: %w", err)
	}
	targets := mountTargets(string(b))
	for i := len(targets) - 1; i >= 0; i-- {
		if t := targets[i]; strings.HasPrefix(t, "/var/lib/") || strings.HasPrefix(t, "/run/") || strings.HasPrefix(t, Dir+"/") {
			unix.Unmount(t, 0)
		}
	}
	if _, err := os.Lstat(Dir); err != nil {
		return nil // the end came before the disk
	}
	err = unix.Unmount(Dir, 0)
	if err == nil || err == unix.EINVAL { // EINVAL: not mounted
		return nil
	}
	// Something holds on to it: read-only it is clean all the same.
	if unix.Mount("", Dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") == nil {
		return nil
	}
	return fmt.Errorf("unmounting the data disk: %w", err)
}

// mountTargets returns the mount points in the text of /proc/self/mountinfo, in
// the order in which they were made.
func mountTargets(info string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var targets []string
	for line := range strings.Lines(info) {
		if fields := strings.Fields(line); len(fields) > 4 {
			targets = append(targets, unescape.Replace(fields[4]))
		}
	}
	return targets
}
