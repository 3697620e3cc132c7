package qemu

import "os"

// processorFeatures returns the models of the host's cores and what they can do.
func processorFeatures() ([]byte, error) {
	cores, err := os.ReadFile("/proc/cpuinfo")
	return []byte(describeCores(cores)), err
}
