package qemu

import "github.com/hyve-vm/hyve/internal/bounded"

// maxCPUInfo bounds what is read of /proc/cpuinfo, in bytes: some 300 a core.
const maxCPUInfo = 1 << 20

// processorFeatures returns the models of the host's cores and what they can do.
func processorFeatures() ([]byte, error) {
	cores, err := bounded.ReadFile("/proc/cpuinfo", maxCPUInfo)
	return []byte(describeCores(cores)), err
}
