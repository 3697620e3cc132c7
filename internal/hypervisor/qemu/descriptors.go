package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// descriptors says at which descriptor QEMU finds each thing of a VM: it inherits them,
// and opens none of them by name. Those that are not there are 0.
type descriptors struct {
	disks, channels         []int
	network, kernel, initrd int

	sources []source // by their numbers, from consoleFD+1 on
}

// A source is what is at a descriptor.
type source struct {
	path string
	open func(ctx context.Context, path string) (*os.File, error)
}

// descriptorsOf is pure: Args and Open agree on it.
func descriptorsOf(cfg hypervisor.Config, f Features) *descriptors {
	d := &descriptors{}
	for _, disk := range cfg.Disks {
		open := openWith(os.O_RDWR)
		if disk.ReadOnly {
			open = openWith(os.O_RDONLY)
		}
		d.disks = append(d.disks, d.add(disk.Path, open))
	}
	for _, c := range cfg.Channels {
		d.channels = append(d.channels, d.add(c.Socket, dial))
	}
	d.network = d.add(cfg.Network.Socket, dial)
	if f.Reopens && !cfg.Incoming {
		d.kernel = d.add(cfg.Kernel, openWith(os.O_RDONLY))
		d.initrd = d.add(cfg.Initrd, openWith(os.O_RDONLY))
	}
	return d
}

func (d *descriptors) add(path string, open func(context.Context, string) (*os.File, error)) int {
	if path == "" {
		return 0
	}
	d.sources = append(d.sources, source{path, open})
	return consoleFD + len(d.sources)
}

func openWith(flags int) func(context.Context, string) (*os.File, error) {
	return func(_ context.Context, path string) (*os.File, error) {
		file, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			var cause *fs.PathError
			if errors.As(err, &cause) {
				err = cause.Err
			}
			return nil, fmt.Errorf("opening %s: %w", path, err)
		}
		return file, nil
	}
}

func dial(ctx context.Context, path string) (*os.File, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("nobody listens on socket %s", path)
	case err != nil:
		return nil, fmt.Errorf("connecting to %s: %w", path, err)
	}
	defer conn.Close()
	return conn.(*net.UnixConn).File()
}

// Open opens what Args tells QEMU to have inherited after monitor and console, in this order:
// the disks, and connections to the sockets of the channels and the
// network. The caller closes them when QEMU has started, so that the locks on the disks
// end with it.
func Open(ctx context.Context, cfg hypervisor.Config, f Features) ([]*os.File, error) {
	var files []*os.File
	for _, s := range descriptorsOf(cfg, f).sources {
		file, err := s.open(ctx, s.path)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

// fdset is QEMU's name for a descriptor of its own where it wants a path to open.
func fdset(fd int) string { return "/dev/fdset/" + strconv.Itoa(fd) }

// fdsetArgs makes fdset's name known. The set has the number of its only descriptor.
func fdsetArgs(fd int) []string {
	return []string{"-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, fd)}
}

// reopened is a path at which Linux opens the file of a descriptor anew, for what QEMU
// opens without looking for its own descriptors.
func reopened(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// named puts the paths into a message of QEMU's, which knows only descriptors.
func (d *descriptors) named(said string) string {
	var pairs []string
	for i, s := range slices.Backward(d.sources) { // 11 before 1
		fd := consoleFD + 1 + i
		pairs = append(pairs, fdset(fd), s.path, reopened(fd), s.path)
	}
	return strings.NewReplacer(pairs...).Replace(said)
}
