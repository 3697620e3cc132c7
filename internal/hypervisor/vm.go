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

// ErrCrashed says that a hypervisor has ended by a fault of its own.
var ErrCrashed = errors.New("the hypervisor crashed")

// An Instance is a VM that was started, and what is known of it from then on.
type Instance struct {
	VM

	PID          int      // the hypervisor's process ID
	SharesMemory bool     // it was thawed, and has in memory of its own only what its guest has changed since
	Unconfined   []string // what the hypervisor could do beyond its own business, one line each

	// Events are closed when the VM has ended. Some are lost where nobody receives them.
	Events <-chan Event
}

// An Event is something that a hypervisor reports unasked.
type Event struct {
	Name  string // in the hypervisor's words, for those who read logs
	Kind  EventKind
	Cause error // of a DiskFailed: why
}

// EventKind is what an Event means to whoever owns the VM.
type EventKind int

// The kinds of events.
const (
	OtherEvent EventKind = iota
	DiskFailed           // a file of a disk could not be written: the VM is paused until Retry
	WentOn               // a paused VM goes on
)

// A VM that runs, until Done is closed.
type VM interface {
	// Done is closed when the VM has ended. Err is then why: nil if the guest powered off
	// or reset itself, or Quit or Kill was called.
	Done() <-chan struct{}
	Err() error

	// Kill ends the VM at once. Quit writes to its disks before, and waits for its end.
	Kill() error
	Quit(ctx context.Context) error

	// Pause pauses the VM, perhaps also where it is an error; Resume resumes it. Retry
	// resumes what the host's full disk has paused.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Retry(ctx context.Context) error

	// Freeze pauses the VM and writes what it consists of, all but its disks, to the new
	// file devices and to memory. After an error it runs on.
	Freeze(ctx context.Context, devices string, memory *sparse.Writer) error

	// ResizeDisk gives the disk of that serial another size in bytes, and its file with it.
	ResizeDisk(ctx context.Context, serial string, size int64) error
}
