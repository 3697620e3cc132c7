package qemu

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

const (
	// MaxSocketPath is what every supported system's sockaddr_un holds beside
	// the final NUL, in bytes: 104 on macOS, 108 on Linux.
	MaxSocketPath = 103

	// MaxSerial is the length of a virtio disk's serial, in bytes.
	MaxSerial = 20

	minMTU = 68    // of IPv4, RFC 791
	maxMTU = 65535 // of virtio's 16 bits
)

// maxChannels is how many ports a virtio-serial device has beside the console.
const maxChannels = 30

var (
	// QEMU's identifiers; a disk's serial is one, as it names the block node.
	serialPattern = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z][A-Za-z0-9._-]{0,%d}$`, MaxSerial-1))
	uuidPattern   = regexp.MustCompile(`^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)
)

// Check says what QEMU could not run, or would misread, about a VM. It looks at
// the values only, not at the files behind them.
func Check(cfg hypervisor.Config) error {
	switch {
	case cfg.CPUs < 1:
		return fmt.Errorf("checking the VM: %d CPUs, at least 1 is needed", cfg.CPUs)
	case cfg.Memory < 1<<20 || cfg.Memory%(1<<20) != 0:
		return fmt.Errorf("checking the VM: memory of %d bytes is not a multiple of 1 MiB", cfg.Memory)
	case cfg.Kernel == "":
		return errors.New("checking the VM: there is no kernel")
	case strings.ContainsRune(cfg.Cmdline, 0) || strings.ContainsRune(cfg.Name, 0):
		return errors.New("checking the VM: name or kernel command line has a NUL")
	case cfg.Generation != "" && !uuidPattern.MatchString(cfg.Generation):
		return fmt.Errorf("checking the VM: generation %q is not a UUID", cfg.Generation)
	case len(cfg.Channels) > maxChannels:
		return fmt.Errorf("checking the VM: %d channels, at most %d", len(cfg.Channels), maxChannels)
	}
	return cmp.Or(checkFiles(cfg), checkDisks(cfg.Disks), checkChannels(cfg.Channels), checkNetwork(cfg.Network))
}

func checkFiles(cfg hypervisor.Config) error {
	for _, f := range []struct{ what, path string }{{"kernel", cfg.Kernel}, {"initrd", cfg.Initrd}, {"memory", cfg.MemoryFile}} {
		if f.path == "" {
			continue
		}
		if err := checkPath(f.path); err != nil {
			return fmt.Errorf("checking the VM's %s: %w", f.what, err)
		}
	}
	return nil
}

func checkDisks(disks []hypervisor.Disk) error {
	seen := make(map[string]bool)
	for _, d := range disks {
		if !serialPattern.MatchString(d.Serial) {
			return fmt.Errorf("checking a disk: serial %q is not a letter and up to %d letters, digits, dots, dashes or underscores", d.Serial, MaxSerial-1)
		}
		if seen[d.Serial] {
			return fmt.Errorf("checking disk %s: there are two of that serial", d.Serial)
		}
		seen[d.Serial] = true
		if err := checkPath(d.Path); err != nil {
			return fmt.Errorf("checking disk %s: %w", d.Serial, err)
		}
	}
	return nil
}

func checkChannels(channels []hypervisor.Channel) error {
	for _, c := range channels {
		if c.Name == "" {
			return errors.New("checking a channel: it has no name")
		}
		if err := checkSocket(c.Socket); err != nil {
			return fmt.Errorf("checking channel %s: %w", c.Name, err)
		}
	}
	return nil
}

func checkNetwork(n hypervisor.Network) error {
	if n.Socket == "" {
		return nil
	}
	if err := checkSocket(n.Socket); err != nil {
		return fmt.Errorf("checking the network: %w", err)
	}
	mac, err := net.ParseMAC(n.MAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("checking the network: %q is not the address of one Ethernet card", n.MAC)
	}
	if n.MTU != 0 && (n.MTU < minMTU || n.MTU > maxMTU) {
		return fmt.Errorf("checking the network: MTU %d is not from %d to %d", n.MTU, minMTU, maxMTU)
	}
	return nil
}

// checkPath refuses what cannot be said on QEMU's command line: JSON has no
// bytes that are not UTF-8, and QEMU runs in another directory.
func checkPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("path %q is not absolute", path)
	case !utf8.ValidString(path) || strings.ContainsRune(path, 0):
		return fmt.Errorf("path %q is not UTF-8 text", path)
	}
	return nil
}

func checkSocket(path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if len(path) > MaxSocketPath {
		return hint.With(fmt.Errorf("socket path of %d bytes, at most %d: %s", len(path), MaxSocketPath, path),
			"move the directory of the sockets to a shorter path")
	}
	return nil
}
