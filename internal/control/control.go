// Package control is how the words speak to a machine's supervisor: HTTP and
// JSON over a unix socket in the machine's directory.
package control

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/hyve-vm/hyve/internal/bounded"
)

// State is what a machine does.
type State string

// The states of a machine. Stopped, Suspended, Unresponsive and Broken are derived where no
// supervisor answers; a supervisor reports the others.
const (
	Starting     State = "Starting"
	Running      State = "Running"
	Stopping     State = "Stopping"
	Stopped      State = "Stopped"
	Suspended    State = "Suspended"    // stopped, with containers that run on at its start
	Unresponsive State = "Unresponsive" // its lock is held, but nobody answers
	Broken       State = "Broken"       // its file cannot be used
)

// Status is what a supervisor knows of its machine.
type Status struct {
	State State `json:"state"`
	// Activity is what a starting or stopping machine does, for people.
	Activity string `json:"activity,omitempty"`
	// Failure is why the machine could not start, or what broke in it since.
	Failure *Failure `json:"failure,omitempty"`

	PID          int       `json:"pid"`           // the supervisor
	HypervisorID int       `json:"hypervisorPid"` // 0 before it runs
	Started      time.Time `json:"started"`

	Hypervisor  string `json:"hypervisor,omitempty"`  // name and version
	Accelerator string `json:"accelerator,omitempty"` // "kvm", "hvf", "tcg"
	// AcceleratorReason says why a better accelerator is not used.
	AcceleratorReason string `json:"acceleratorReason,omitempty"`
	// Unconfined is what a hypervisor that was taken over by its guest is not kept from on
	// this host, each one line; empty where it is kept from everything that it can be.
	Unconfined    []string `json:"unconfined,omitempty"`
	EngineVersion string   `json:"engineVersion,omitempty"`

	// Asleep says of a running machine that its VM is frozen until a client connects.
	Asleep bool `json:"asleep,omitempty"`

	// Frozen says of a stopped machine that its next start goes on from a frozen state.
	Frozen bool `json:"frozen"`
	// Thawed says that the machine went on from a frozen state instead of booting.
	// BootReason says why not, where there was one to go on from, or it cannot be.
	Thawed bool `json:"thawed"`
	// MemoryShared says of a thawed machine that it has in memory of its own only what
	// its guest has changed since, and shares the rest with those thawed from the same.
	MemoryShared bool   `json:"memoryShared,omitempty"`
	BootReason   string `json:"bootReason,omitempty"`

	Endpoints Endpoints `json:"endpoints"`
	Ports     []Port    `json:"ports"`    // published now, in order
	Problems  []string  `json:"problems"` // each one line, worth knowing now
	Timing    []Step    `json:"timing"`   // of the start
}

// Failure is why something went wrong.
type Failure struct {
	Phase string `json:"phase"`
	Cause string `json:"cause"`
	Hint  string `json:"hint,omitempty"`
}

// maxCause bounds each part of a failure, in bytes: somebody else may have said it.
const maxCause = 8 << 10

// Bounded returns the failure with each of its parts cut to what people read.
func (f *Failure) Bounded() *Failure {
	cut := func(s string) string {
		if len(s) > maxCause {
			s = strings.ToValidUTF8(s[:maxCause], "") + "…"
		}
		return s
	}
	return &Failure{Phase: cut(f.Phase), Cause: cut(f.Cause), Hint: cut(f.Hint)}
}

// Keep writes a failure to a file, for those who ask when the supervisor is
// gone.
func (f *Failure) Keep(path string) error {
	data, err := json.Marshal(f.Bounded())
	if err != nil {
		return err
	}
	return renameio.WriteFile(path, data, 0o600)
}

// KeptFailure returns the failure in a file, nil if there is none.
func KeptFailure(path string) *Failure {
	data, err := bounded.ReadFile(path, bounded.MaxDocument)
	if err != nil {
		return nil
	}
	f := new(Failure)
	if json.Unmarshal(data, f) != nil {
		return nil
	}
	return f.Bounded()
}

func (f *Failure) Error() string {
	if f.Phase == "" {
		return f.Cause
	}
	return f.Phase + ": " + f.Cause
}

// Endpoints are where the machine answers on the host.
type Endpoints struct {
	Docker string `json:"docker"` // unix:///…
	TCP    string `json:"tcp"`    // tcp://ADDRESS:2376, mutual TLS
	SSH    string `json:"ssh"`    // ADDRESS:22 or unix:///…
}

// Port is a published port.
type Port struct {
	Protocol string `json:"protocol"`
	Address  string `json:"address"` // on the host
	Port     uint16 `json:"port"`
}

// Step is one step of a start, and when it ended.
type Step struct {
	Name string `json:"name"`
	// At is the time since the start began.
	At time.Duration `json:"at"`
}

// A Supervisor answers requests.
type Supervisor interface {
	// Status returns the machine's status now, and a channel that is closed when it
	// has changed.
	Status() (Status, <-chan struct{})
	// Stop asks the machine to stop; it waits for a suspension alone.
	Stop(context.Context, StopRequest) error
	// Reload reads the machine's file again and waits until the machine has what can
	// change while it runs; one that starts or is asleep gets it when it is up.
	Reload(context.Context) error
	// Identify reads the machine's keys and certificates again and waits until the
	// running guest has them; one that is asleep gets them when it wakes.
	Identify(context.Context) error
	// Stats measures what the machine uses.
	Stats(context.Context) (Stats, error)
	// Copy makes a copy of the running machine and waits for it; ctx ends the wait.
	Copy(ctx context.Context, request CopyRequest) error
	// Examine has the running guest note what it is or, after a thaw, look whether it is still
	// that. The error says what is wrong.
	Examine(ctx context.Context, request ExamineRequest) error
}

// Stats is what a running machine uses now. Sizes are in bytes.
type Stats struct {
	At time.Time `json:"at"`
	// CPUTime is what its processes have used since they started. The hypervisor's is
	// gone when it is: at a reboot, and when the machine falls asleep.
	CPUTime time.Duration `json:"cpuTime"`
	// HostMemoryOwn is what would be free without the machine, HostMemoryShared what
	// its processes share with others.
	HostMemoryOwn    int64 `json:"hostMemoryOwn"`
	HostMemoryShared int64 `json:"hostMemoryShared"`
	// GuestMemory as the guest sees it; 0 while it is asleep.
	GuestMemoryTotal int64 `json:"guestMemoryTotal"`
	GuestMemoryUsed  int64 `json:"guestMemoryUsed"`
	// NetworkIn went to the guest, NetworkOut came from it, Ethernet frames counted.
	NetworkIn  int64 `json:"networkIn"`
	NetworkOut int64 `json:"networkOut"`
}

// CopyRequest says where a copy of a machine goes.
type CopyRequest struct {
	// Dir is a machine's directory that has neither disk nor frozen state. It gets
	// both, the latter where machines are frozen.
	Dir string `json:"dir"`
}

// ExamineRequest says whether a guest is about to be frozen, or was thawed.
type ExamineRequest struct {
	// Noted is when a guest that was thawed has noted what it is; zero if it is to do so now.
	Noted time.Time `json:"noted,omitzero"`
}

// StopRequest says how to stop.
type StopRequest struct {
	// Kill ends the machine at once, like a power cut.
	Kill bool `json:"kill,omitempty"`
	// Sync lets a guest that answers within a second write to its disk before it is killed.
	Sync bool `json:"sync,omitempty"`
	// Freeze stops the containers and freezes the machine, so that its next start
	// is a thaw. Where that cannot be, it shuts down.
	Freeze bool `json:"freeze,omitempty"`
	// Suspend freezes the machine with everything that runs in it, or changes
	// nothing.
	Suspend bool `json:"suspend,omitempty"`
}
