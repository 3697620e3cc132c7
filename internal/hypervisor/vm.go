package hypervisor

import (
	"context"
	"errors"

	"github.com/hyve-vm/hyve/internal/sparse"
)

// ErrRan says of a VM whose start has failed that its guest may have run. Without it no
// guest has.
var ErrRan = errors.New("the guest may have run")

// ErrKilled says that a hypervisor was ended by a signal, which is no fault of what it was
// given to run.
var ErrKilled = errors.New("the hypervisor was ended by a signal")

// A VM that runs, until Done is closed.
type VM interface {
	// PID is the hypervisor's process ID.
	PID() int
	// Done is closed when the VM has ended. Err is then why: nil if the guest powered off
	// or reset itself, or Quit or Kill was called.
	Done() <-chan struct{}
	Err() error

	// Kill ends the VM at once. Quit writes to its disks before, and waits for its end.
	Kill() error
	Quit(ctx context.Context) error

	// Stop pauses the VM, perhaps also where it is an error; Continue lets it go on. Retry
	// lets go on what the host's full disk has paused.
	Stop(ctx context.Context) error
	Continue(ctx context.Context) error
	Retry(ctx context.Context) error

	// Freeze pauses the VM and writes what it consists of, all but its disks, to the new
	// file devices and to memory. After an error it runs on.
	Freeze(ctx context.Context, devices string, memory *sparse.Writer) error

	// ResizeDisk gives the disk of that serial another size in bytes, and its file with it.
	ResizeDisk(ctx context.Context, serial string, size int64) error
}
