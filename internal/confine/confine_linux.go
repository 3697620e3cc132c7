package confine

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaces are those of a program that is confined so far already. With one of users come
// the rights to make the others.
func (l Level) namespaces() uintptr {
	var flags uintptr = unix.CLONE_NEWUSER | unix.CLONE_NEWIPC
	if l.Landlock < landlockScopes {
		// The first of its processes can ignore what ends others, but for SIGKILL.
		flags |= unix.CLONE_NEWPID
	}
	if !l.Seccomp {
		flags |= unix.CLONE_NEWNET // takes the kernel some milliseconds
	}
	return flags
}

// Start starts the program. With an error it was not started.
//
// The caller dumps no core from then on, either: a child has its parent's limit from its
// first instruction, and a limit set later leaves a moment in between.
func (p Plan) Start() (cmd *exec.Cmd, level Level, err error) {
	closeOnExec()
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return nil, level, fmt.Errorf("confining a program: %w", os.NewSyscallError("setrlimit", err))
	}
	// os tries once in a process' life whether it can signal by descriptors; not on a
	// thread that may not.
	_, _ = os.FindProcess(os.Getpid())
	OnThread(func() { cmd, level, err = p.start() })
	if err != nil {
		return nil, level, err
	}
	return cmd, level, nil
}

// start is Start, on a thread of its own.
func (p Plan) start() (*exec.Cmd, Level, error) {
	level, err := restrict(p.Policy, p.landlock())
	if err != nil {
		return nil, level, fmt.Errorf("confining a program: %w", err)
	}
	if p.Also != nil {
		if err := p.Also(); err != nil {
			return nil, level, err
		}
	}
	cmd := p.Command()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= level.namespaces()
	if cmd.Start() == nil {
		level.Namespaces = true
	} else {
		cmd = p.Command()
		if err := cmd.Start(); err != nil {
			return nil, level, err
		}
	}
	return cmd, level, nil
}

// landlock is the ABI to use.
func (p Plan) landlock() int {
	if p.older != 0 {
		return min(landlockABI(), p.older)
	}
	return landlockABI()
}

// restrict confines this thread, and whatever it starts.
func restrict(policy Policy, abi int) (Level, error) {
	var level Level
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return level, os.NewSyscallError("prctl", err)
	}
	// What a host does not offer, or no deeper, is said in the level.
	if abi > 0 && restrictFiles(policy, abi) == nil {
		level.Landlock = abi
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return level, os.NewSyscallError("capset", err)
	}
	// Last, as it denies what comes before.
	level.Seccomp = denyCalls() == nil
	return level, nil
}

// closeOnExec keeps from the program what this process has inherited itself; what Go
// opens is kept from it anyway.
func closeOnExec() {
	if unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	entries, err := os.ReadDir("/proc/self/fd") // before Linux 5.11
	if err != nil {
		return
	}
	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// Possible is how far programs can be confined here.
func Possible() (level Level) {
	OnThread(func() {
		// Executes nothing: that it finds nothing to execute tells that all else was done.
		_, err := syscall.ForkExec("/proc/self/nothing", nil, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: Level{}.namespaces()}})
		level, _ = restrict(Policy{}, landlockABI())
		level.Namespaces = err == syscall.ENOENT
	})
	return level
}

// OnThread calls f on a thread that ends with it, and with all that f denies the thread.
func OnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// A process' first thread does not end, and what is said of the process is
			// said of that. Held here it is not the next one's.
			OnThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}
