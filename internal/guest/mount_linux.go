package guest

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/guest/engine"
	"github.com/hyve-vm/hyve/internal/guest/mount"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

const (
	noSuid  = unix.MS_NOSUID
	noExec  = unix.MS_NOEXEC
	noDev   = unix.MS_NODEV
	sysOnly = noSuid | noExec | noDev
)

// firstMounts are what the first steps need, made in the initramfs and moved
// along into the root.
var firstMounts = []mount.Point{
	{Source: "proc", Target: "/proc", FSType: "proc", Flags: sysOnly},
	{Source: "sysfs", Target: "/sys", FSType: "sysfs", Flags: sysOnly},
	{Source: "dev", Target: "/dev", FSType: "devtmpfs", Flags: noSuid, Data: "mode=0755"},
}

// systemMounts are what a Linux system has besides, once its root is there. The
// gid of a terminal is that of group tty.
var systemMounts = []mount.Point{
	{Source: "tmpfs", Target: "/run", FSType: "tmpfs", Flags: noSuid | noDev, Data: "mode=0755"},
	{Source: "tmpfs", Target: "/tmp", FSType: "tmpfs", Flags: noSuid | noDev, Data: "mode=1777"},
	{Source: "devpts", Target: "/dev/pts", FSType: "devpts", Flags: noSuid | noExec, Data: "gid=5,mode=0620,ptmxmode=0666"},
	{Source: "shm", Target: "/dev/shm", FSType: "tmpfs", Flags: noSuid | noDev, Data: "mode=1777"},
	{Source: "mqueue", Target: "/dev/mqueue", FSType: "mqueue", Flags: sysOnly, Optional: true},
	{Source: "cgroup2", Target: "/sys/fs/cgroup", FSType: "cgroup2", Flags: sysOnly, Data: "nsdelegate,memory_recursiveprot"},
	{Source: "securityfs", Target: "/sys/kernel/security", FSType: "securityfs", Flags: sysOnly, Optional: true},
	{Source: "bpf", Target: "/sys/fs/bpf", FSType: "bpf", Flags: sysOnly, Data: "mode=0700", Optional: true},
	{Source: "tracefs", Target: "/sys/kernel/tracing", FSType: "tracefs", Flags: sysOnly, Optional: true},
	{Source: "fusectl", Target: "/sys/fs/fuse/connections", FSType: "fusectl", Flags: sysOnly, Optional: true},
	{Source: "hugetlbfs", Target: "/dev/hugepages", FSType: "hugetlbfs", Flags: noSuid | noDev, Optional: true},
	{Source: "debugfs", Target: "/sys/kernel/debug", FSType: "debugfs", Flags: sysOnly, Optional: true},
}

// Where the parts of the root live in the initramfs until it is entered.
const (
	lowerDir = "/hyve/lower" // EROFS of the image
	upperDir = "/hyve/upper" // tmpfs; what is written to the root is gone at power-off
	newRoot  = "/hyve/root"
)

// enterRoot waits for the image's disk, lays a tmpfs over it, makes the two the
// root, and frees what the initramfs holds.
func enterRoot(ctx context.Context, d *devices) error {
	disk, err := d.disk(ctx, guestapi.RootDisk)
	if err != nil {
		return err
	}
	err = mount.All([]mount.Point{
		{Source: "/dev/" + disk, Target: lowerDir, FSType: "erofs", Flags: unix.MS_RDONLY},
		{Source: "tmpfs", Target: upperDir, FSType: "tmpfs", Data: "mode=0755"},
	})
	if err != nil {
		return err
	}
	for _, dir := range []string{upperDir + "/data", upperDir + "/work", newRoot} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making the root: %w", err)
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/data,workdir=%s/work", lowerDir, upperDir, upperDir)
	if err := (mount.Point{Source: "overlay", Target: newRoot, FSType: "overlay", Data: layers}).Mount(); err != nil {
		return err
	}
	if err := guardPrograms(lowerDir, newRoot); err != nil {
		return err
	}
	return switchRoot()
}

// guardPrograms mounts the image's own files, which nobody can write to, over the programs
// that run in containers without being theirs: a container finds them as /proc/self/exe.
// Where it could write to it, crun starts each time by copying itself to where it cannot.
func guardPrograms(image, root string) error {
	programs := []string{engine.Crun, "/usr/bin/hyve-init"}
	for _, m := range elfMachines {
		if exists(image + m.emulatorPath()) {
			programs = append(programs, m.emulatorPath())
		}
	}
	for _, p := range programs {
		if err := unix.Mount(image+p, root+p, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", p, err)
		}
	}
	return nil
}

// switchRoot makes newRoot the root of this process and of all that it starts.
// The rootfs cannot be unmounted, so its files are removed instead; the program
// that runs keeps its own pages.
func switchRoot() error {
	old, err := os.Open("/")
	if err != nil {
		return err
	}
	defer old.Close()
	for _, m := range firstMounts {
		if err := os.MkdirAll(newRoot+m.Target, 0o755); err != nil {
			return fmt.Errorf("entering the root: %w", err)
		}
		if err := unix.Mount(m.Target, newRoot+m.Target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s into the root: %w", m.Target, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	// Containers' volumes with rshared propagation need a shared root.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing the root's mounts: %w", err)
	}
	freeInitramfs(int(old.Fd()))
	return nil
}

// freeInitramfs removes the files of the initramfs through a descriptor of its
// root, which is not reachable by name any more. It stays on that file system.
func freeInitramfs(root int) {
	var st unix.Statfs_t
	const ramfs, tmpfs = 0x858458f6, 0x01021994
	if unix.Fstatfs(root, &st) != nil || st.Type != ramfs && st.Type != tmpfs {
		return
	}
	var self unix.Stat_t
	if unix.Fstat(root, &self) == nil {
		removeBelow(root, self.Dev)
	}
}

func removeBelow(dir int, dev uint64) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || uint64(st.Dev) != dev {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			unix.Unlinkat(fd, name, 0)
			continue
		}
		if sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
			removeBelow(sub, dev)
			unix.Close(sub)
		}
		unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
	}
}

// Where the control groups of the machine's own processes are; containers get
// theirs from dockerd at the top.
const (
	cgroupRoot = "/sys/fs/cgroup"
	cgroupHyve = cgroupRoot + "/hyve"
	// As systemd names PID 1's. In any other, dockerd says that it is in a container.
	cgroupInit = cgroupRoot + "/init.scope"
)

// delegateCgroups gives every controller to the groups below and makes one for
// each kind of process of the machine's own.
func delegateCgroups() error {
	b, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("reading the cgroup controllers: %w", err)
	}
	all := strings.Fields(string(b))
	for _, dir := range []string{cgroupRoot, cgroupHyve} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making %s: %w", dir, err)
		}
		for _, controller := range all {
			// One at a time: a controller that this kernel cannot delegate does not
			// take the others down.
			os.WriteFile(dir+"/cgroup.subtree_control", []byte("+"+controller), 0)
		}
	}
	for _, dir := range []string{cgroupInit, cgroupHyve + "/containerd", cgroupHyve + "/dockerd", cgroupHyve + "/users", cgroupHyve + "/hooks", cgroupRoot + "/docker"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making the cgroup %s: %w", dir, err)
		}
	}
	if err := os.WriteFile(cgroupInit+"/cgroup.procs", []byte("0"), 0); err != nil {
		return fmt.Errorf("entering the cgroup %s: %w", cgroupInit, err)
	}
	return nil
}
