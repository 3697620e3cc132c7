package hypervisor

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// NamePrefix begins the names of the VMs that hyve makes, see Config.
const NamePrefix = "hyve-"

// RefusalAge is how long it is believed that something does not work on this host. To see
// again costs little, and it may have been the bad luck of a moment.
const RefusalAge = time.Hour

// A Backend is a hypervisor that was found on this host and is fit to run VMs. An
// accelerator is named as its Verdict does.
type Backend interface {
	// String says what it is and where, Release what it is alone: "QEMU 10.0.2".
	String() string
	Release() string

	// Accelerator says which accelerator really works, by trying it or from a try that was
	// made recently. TryAgain does not believe an earlier no.
	Accelerator(ctx context.Context) Verdict
	TryAgain(ctx context.Context) Verdict
	// ForState is what is to run a frozen state, given what there is now. The error is an
	// *AcceleratorError or a *ProcessorError where the state cannot go on.
	ForState(now Verdict, of Origin) (Verdict, error)

	// KernelCmdline is what belongs on the guest's kernel command line because of the
	// accelerator; the rest is the image's and the machine's.
	KernelCmdline(accel string) string
	// Shape names everything about a VM and its hypervisor that must be the same for a
	// frozen state to be thawed. What kernel, initrd and disks contain is the caller's to
	// compare.
	Shape(cfg Config, accel string) string
	// CommandLine is the program that runs the VM, with its arguments.
	CommandLine(cfg Config, accel string) []string

	// Unconfined is what a hypervisor that was taken over by its guest could still do on this
	// host, one line each.
	Unconfined() []string

	// Start starts a VM and returns when it runs. The error is ErrRan if the guest may have
	// run nevertheless, and perhaps has a Hint. Cancelling ctx ends a start whose guest has
	// not begun to run; afterwards it means nothing.
	Start(ctx context.Context, cfg Config, o Options) (*Instance, error)
}

// Verdict is which accelerator to use and why, and what VMs can do with it.
type Verdict struct {
	Name   string        // "kvm", "hvf" or "tcg" (emulation)
	Reason string        // why not the host's own; empty unless Name is "tcg"
	Hint   string        // the way out of Reason; may be empty
	Took   time.Duration // of this call
	Rate   float64       // instructions a second in the test of the hardware; 0 if it did not get that far
	Tested time.Time     // when the hardware was tested; zero if it did not come to that
	Cached bool          // that was earlier, since the host's boot

	Capabilities
}

func (v Verdict) String() string {
	if v.Reason == "" {
		return v.Name
	}
	return fmt.Sprintf("%s (%s)", v.Name, v.Reason)
}

// An Origin is what ran a VM that was frozen; what its state does not say is empty.
type Origin struct {
	Accelerator string // its Verdict's name
	Processor   string // as Capabilities has it
}

// Capabilities is what a hypervisor can do for its VMs, and how it speaks with those around
// them.
type Capabilities struct {
	// Processor names the processor that guests see, in words for the user, so that no state
	// goes on on another one; empty where it is emulated, and the same on all hosts.
	Processor string
	// NoFreeze is why VMs cannot be frozen and thawed; empty if they can.
	NoFreeze string
	// OnTrial says that VMs can be frozen, but are to be only where a trial on this host says
	// that one went on: its processor and its clocks have a part in it.
	OnTrial bool
	// NoSharing is why VMs that are thawed have all of their memory for themselves; empty
	// if they share what they have not changed.
	NoSharing string

	// GivesBack says that memory which the guest does not need any more is the host's
	// again, while the VM runs.
	GivesBack bool

	Frames   Framing
	Channels Transport
	Kernel   KernelForm
}

// KernelForm is what file of a Linux kernel a hypervisor boots.
type KernelForm int

const (
	// Unpacked is entered as it is: on amd64 an ELF file with a PVH entry, on arm64 a raw
	// Image.
	Unpacked KernelForm = iota
	// AsShipped is the file that distributions have: on amd64 a bzImage, which unpacks
	// itself, on arm64 the same raw Image.
	AsShipped
)

// Transport is how a guest finds its end of a Channel.
type Transport int

const (
	// Ports are of virtio-serial, and have the channels' names.
	Ports Transport = iota
	// Vsock has numbers, which the guest connects to.
	Vsock
)

// Framing is how the Ethernet frames of a VM's card reach the host.
type Framing int

const (
	// Stream is one connection of stream sockets, with 32 bits of length, big endian,
	// before each frame.
	Stream Framing = iota
	// Datagrams has a datagram for each frame, sent from a bound socket of the hypervisor's
	// own, and before the first one a datagram that is none.
	Datagrams
)

// Freezes says whether VMs are to be frozen and thawed.
func (c Capabilities) Freezes() bool { return c.NoFreeze == "" }

// An AcceleratorError says why a state cannot go on here, today.
type AcceleratorError struct {
	Wanted string  // with which it was frozen
	Now    Verdict // what there is instead
}

func (e *AcceleratorError) Error() string {
	if e.Wanted == e.Now.Name {
		return "a frozen state cannot be thawed: " + e.Now.NoFreeze
	}
	return fmt.Sprintf("its frozen state is of %s, which does not work now: %s", e.Wanted, e.Now.Reason)
}

// A ProcessorError says that a state cannot go on here, because its guest was told of another
// processor.
type ProcessorError struct{ Wanted, Now string }

func (e *ProcessorError) Error() string {
	return fmt.Sprintf("its frozen state is of %.100q, and here is %.100q", e.Wanted, e.Now)
}

// Options of a start that are no part of the VM.
type Options struct {
	// Accel is the accelerator's name, from Backend.Accelerator.
	Accel string

	// ExtraFiles are inherited by the hypervisor, which leaves them alone: a file locked
	// with flock(2) stays locked as long as that lives, even if the caller dies.
	ExtraFiles []*os.File

	// Stderr gets the hypervisor's own messages, if set; VM.Err has the last of them
	// anyway. Its errors are passed over; while it blocks, so may the hypervisor.
	Stderr io.Writer

	// Console gets what the guest says on its console, if the VM has one, and has had all
	// of it when Done is closed. Its errors are passed over; while it blocks, what it does
	// not take is lost.
	Console io.Writer

	// Thaw is what VM.Freeze has written, if the VM shall go on from there rather than
	// boot.
	Thaw *State

	// Take, if set, is called when the hypervisor has started and the guest is yet to go
	// on, and says where Thaw's files are from then on. An error ends the start.
	Take func() (State, error)
}

// State is where a frozen VM is: the paths of two files, neither of which means anything
// without the other.
type State struct {
	Devices string // processors and devices, as the hypervisor writes them
	Memory  string // the guest's memory, as long as that is; what is zero are holes
}
