// Package confine starts a program that may turn against its user with as little as that
// user can leave to it: no file but those named, no socket, no other process. What the
// program shall work with it inherits as descriptors.
//
// On Linux it stacks what an ordinary user may impose on a child, each where the kernel
// has it:
//
//   - Landlock: which files may be opened (since Linux 5.13), no TCP (6.7), no abstract
//     sockets and signals of others (6.12). No process outside can be traced.
//   - seccomp: no sockets at all, not even by a path, which Landlock does not see; no
//     changed modes and owners of files, keyrings, shared memory, others' limits.
//   - name spaces: of System V's IPC, a second lock on a door that seccomp shuts; of the
//     network where there is no seccomp, for they take the kernel milliseconds; of processes
//     where Landlock cannot forbid signals, so that there is nobody to signal. Not of
//     processes elsewhere: who is the first one in it ignores signals that end others in
//     order. They come with a name space of users, in which the program has no name and no
//     capability; the files of its descriptors and groups are its as before. Not of
//     mounts: a tree of one's own is Landlock's work, and would need a program in between.
//   - no capabilities, also for root, and no_new_privs: nothing it executes gets more.
//
// Nothing of it is imposed on the caller but that neither of the two dumps core, and no
// second program is executed for it: the thread that starts the program is confined, and
// ends.
package confine

import (
	"os/exec"
	"runtime"
)

// Policy is what a program may open. Paths that do not exist are passed over.
type Policy struct {
	// Read are files and directories, with all below them, to read and execute.
	Read []string
	// Devices are files to read, write and control.
	// The null device is among them.
	Devices []string
}

// A Plan is a start.
type Plan struct {
	Policy Policy
	// Command makes the command; more than once if it cannot start in name spaces.
	Command func() *exec.Cmd
	// Also is called, if it is set, on the thread that starts the program: for what a child
	// inherits of its thread.
	Also func() error

	older int // in a test: as on a kernel whose Landlock is of this ABI
}

// A Level is how far a program is confined.
type Level struct {
	Landlock   int  `json:"landlock"`   // its ABI, 0 for none
	Seccomp    bool `json:"seccomp"`    // sockets and the like are refused
	Namespaces bool `json:"namespaces"` // it has name spaces of its own
}

// A Gap is something that a program is not kept from.
type Gap struct {
	Missing     string // of the system
	Consequence string // what the program could do
}

func (g Gap) String() string { return g.Consequence + ": " + g.Missing }

// The ABIs of Landlock that brought something that nothing else replaces; see landlock(7).
const (
	landlockFiles   = 1
	landlockTCP     = 4
	landlockDevices = 5
	landlockScopes  = 6
)

// Gaps are what l leaves open.
func (l Level) Gaps() []Gap {
	var gaps []Gap
	add := func(missing, consequence string) { gaps = append(gaps, Gap{missing, consequence}) }
	if runtime.GOOS != "linux" {
		add("hyve confines on Linux only", "it could do everything that you can")
		return gaps
	}
	if l.Landlock < landlockFiles {
		add("no Landlock (Linux 5.13, switched on)", "it could read and write every file of yours")
	}
	if !l.Seccomp {
		add("no seccomp", "it could reach every server and agent that you can")
	}
	if l.Landlock < landlockScopes && !l.Namespaces {
		add("neither name spaces for users nor Landlock's scopes (Linux 6.12)", "it could end other processes of yours")
	}
	return gaps
}
