package machinestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/bounded"
)

// A VM is what the drivers xhyve and virtualbox keep of a machine.
type VM struct {
	CPUs   int   // 0 or less is all of the host's
	Memory int64 // bytes
	Disk   int64 // bytes
	// Shares are directories of the host that the machine had.
	Shares []string
	// Pid is that of the process that runs the machine, 0 if none is known to.
	Pid int
}

// DriverError says that a machine is not of a driver whose VMs are known.
type DriverError struct{ Driver string }

func (e *DriverError) Error() string {
	return fmt.Sprintf("machines of docker-machine's driver %s cannot be read, only those of xhyve and virtualbox", e.Driver)
}

// maxMB bounds memory and disk, in MB: a pebibyte.
const maxMB = 1 << 30

// VM returns the machine's VM. The error is a *DriverError if its driver is neither xhyve
// nor virtualbox.
func (s Store) VM(h *Host) (*VM, error) {
	if h.DriverName != "xhyve" && h.DriverName != "virtualbox" {
		return nil, &DriverError{h.DriverName}
	}
	vm, err := parseVM(h.Driver)
	if err != nil {
		return nil, fmt.Errorf("reading docker-machine's %s: %w", h.Name, err)
	}
	if h.DriverName == "xhyve" {
		vm.Pid = alive(filepath.Join(s.Dir(h.Name), h.Name+".pid"))
	}
	return vm, nil
}

func parseVM(driver []byte) (*VM, error) {
	var d struct {
		CPU, Memory, DiskSize int64 // the latter in MB, which are MiB
		NFSShares, Virtio9p   []string
	}
	if err := json.Unmarshal(driver, &d); err != nil {
		return nil, fmt.Errorf("what its driver keeps is damaged: %w", err)
	}
	if d.CPU > 1<<16 || d.Memory < 1 || d.Memory > maxMB || d.DiskSize < 1 || d.DiskSize > maxMB {
		return nil, fmt.Errorf("it cannot have %d CPUs, %d MB of memory and a disk of %d MB", d.CPU, d.Memory, d.DiskSize)
	}
	return &VM{CPUs: int(max(d.CPU, 0)), Memory: d.Memory << 20, Disk: d.DiskSize << 20, Shares: append(d.NFSShares, d.Virtio9p...)}, nil
}

// alive returns the process that a PID file names, 0 if it does not live.
func alive(path string) int {
	data, err := bounded.ReadFile(path, 32)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 0 {
		return 0
	}
	if err := unix.Kill(pid, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return 0
	}
	return pid
}

// A Disk is the file with a machine's data.
type Disk struct {
	Path string
	// Format is "raw", "qcow2", "vmdk" or "vdi" as qemu-img names them, or
	// "sparsebundle", which macOS alone reads.
	Format string
	Used   int64 // bytes that it takes, 0 for a sparsebundle
}

// Disk finds the disk of a machine of xhyve or virtualbox.
func (s Store) Disk(h *Host) (*Disk, error) {
	for _, candidate := range []struct{ file, format string }{
		{h.Name + ".rawdisk", "raw"},
		{h.Name + ".qcow2", "qcow2"},
		{"root-volume.sparsebundle", "sparsebundle"},
		{"disk.vmdk", "vmdk"},
		{"disk.vdi", "vdi"},
	} {
		path := filepath.Join(s.Dir(h.Name), candidate.file)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the disk of docker-machine's %s: %w", h.Name, err)
		}
		bundle := candidate.format == "sparsebundle"
		if bundle != info.IsDir() || !bundle && !info.Mode().IsRegular() {
			continue
		}
		d := &Disk{Path: path, Format: candidate.format}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && !bundle {
			d.Used = stat.Blocks * 512
		}
		return d, nil
	}
	return nil, fmt.Errorf("docker-machine's %s has no disk in %s", h.Name, s.Dir(h.Name))
}
