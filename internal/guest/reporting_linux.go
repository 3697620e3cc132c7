package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// reporting is whether the kernel tells the host of memory that has come free, for it to
// take back. For each piece that does it goes through all that is free, of which a
// machine that was thawed, and in which nothing has run yet, has as good as nothing of its
// own; but to be gone through is enough for the host to count what describes it, 16 MiB a
// gigabyte.
type reporting struct {
	mu      sync.Mutex
	devices []string // that have no driver meanwhile
}

const balloonDriver = "/sys/bus/virtio/drivers/virtio_balloon"

// pause ends it until start is called.
func (r *reporting) pause() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	paths, _ := filepath.Glob(balloonDriver + "/virtio*") // the pattern is good
	var errs []error
	for _, path := range paths {
		device := filepath.Base(path)
		if err := os.WriteFile(balloonDriver+"/unbind", []byte(device), 0); err != nil {
			errs = append(errs, fmt.Errorf("keeping memory: %w", err))
			continue
		}
		r.devices = append(r.devices, device)
	}
	return errors.Join(errs...)
}

// start is for a machine in which something runs.
func (r *reporting) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, device := range r.devices {
		if err := os.WriteFile(balloonDriver+"/bind", []byte(device), 0); err != nil {
			errs = append(errs, fmt.Errorf("giving memory back: %w", err))
		}
	}
	r.devices = nil
	return errors.Join(errs...)
}
