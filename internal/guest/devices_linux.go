package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// devices wakes whoever waits for a device. Without udev in the guest the
// kernel's own events are the only news there are.
type devices struct {
	mu      sync.Mutex
	changed chan struct{}  // closed and replaced at every event
	groups  map[string]int // to whom nodes may belong; nil until the root is there
}

// watchDevices listens for the kernel's device events until the program ends.
func watchDevices() (*devices, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("opening the kernel's device events: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listening for the kernel's device events: %w", err)
	}
	d := &devices{changed: make(chan struct{})}
	go d.follow(os.NewFile(uintptr(fd), "uevents"))
	return d, nil
}

func (d *devices) follow(f *os.File) {
	buf := make([]byte, 16<<10)
	for {
		n, err := f.Read(buf)
		// An overflow of the socket (ENOBUFS) means that events were lost, and
		// is news as well.
		if err == nil {
			e, ok := parseUevent(buf[:n])
			if !ok || e.action == "remove" {
				continue
			}
			d.open(e.devname)
		}
		d.mu.Lock()
		close(d.changed)
		d.changed = make(chan struct{})
		d.mu.Unlock()
	}
}

// open gives a node that has come to whom it belongs.
func (d *devices) open(name string) {
	d.mu.Lock()
	groups := d.groups
	d.mu.Unlock()
	if groups != nil && name != "" {
		openTo("/dev", name, groups) // what becomes of it is nobody's failure
	}
}

// await calls find at once and again after every device event until it says
// that it is done, and returns ctx's error if that comes first.
func (d *devices) await(ctx context.Context, find func() bool) error {
	for {
		d.mu.Lock()
		changed := d.changed
		d.mu.Unlock()
		if find() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// disk waits for the virtio disk with that serial and returns its name, "vda".
func (d *devices) disk(ctx context.Context, serial string) (string, error) {
	var name string
	var seen []string
	err := d.await(ctx, func() bool {
		seen = seen[:0]
		paths, _ := filepath.Glob("/sys/block/vd*/serial")
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				continue // unplugged, or not probed yet
			}
			found := strings.TrimSpace(string(b))
			seen = append(seen, found)
			if found == serial && exists("/dev/"+filepath.Base(filepath.Dir(path))) {
				name = filepath.Base(filepath.Dir(path))
				return true
			}
		}
		return false
	})
	if err != nil {
		return "", fmt.Errorf("waiting for the disk with serial %q, found %q: %w", serial, seen, err)
	}
	return name, nil
}

// port waits for the virtio-serial port of that name and opens it. Without udev
// there is no /dev/virtio-ports.
func (d *devices) port(ctx context.Context, name string) (*os.File, error) {
	var node string
	err := d.await(ctx, func() bool {
		paths, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err == nil && strings.TrimSpace(string(b)) == name {
				node = "/dev/" + filepath.Base(filepath.Dir(path))
				return exists(node)
			}
		}
		return false
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for the channel %s: %w", name, err)
	}
	// In blocking mode the driver spins in the kernel until the host has taken
	// the data. Non-blocking, the runtime's poller waits instead.
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", node, err)
	}
	return os.NewFile(uintptr(fd), node), nil
}

// card waits for the network card and returns its name. There is only one.
func (d *devices) card(ctx context.Context) (string, error) {
	var name string
	err := d.await(ctx, func() bool {
		paths, _ := filepath.Glob("/sys/class/net/*/device")
		for _, path := range paths {
			name = filepath.Base(filepath.Dir(path))
			return true
		}
		return false
	})
	if err != nil {
		return "", fmt.Errorf("waiting for the network card: %w", err)
	}
	return name, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
