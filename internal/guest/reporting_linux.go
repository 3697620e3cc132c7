package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// reporting is the kernel's free page reporting: it tells the host what has come free, for
// it to take back. Each time it goes through all that is free, and the host then maps
// what describes that, 16 MiB a gigabyte, into a machine that was thawed. Until something
// runs in such a machine it has next to nothing to give back.
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
