package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/hyve-vm/hyve/internal/hypervisor/pick"
	"github.com/hyve-vm/hyve/internal/machine"
)

// A process is one that holds a machine's lock.
type process struct {
	pid  int
	args []string
}

// supervises tells whether it is a supervisor.
func (p process) supervises() bool { return len(p.args) > 1 && p.args[1] == "supervise" }

// virtualizes tells whether it is a hypervisor.
func (p process) virtualizes() bool { return pick.RunsVM(p.args) }

// lockHolders returns a machine's supervisor and hypervisor. Commands may hold its lock as
// well, for as long as they copy its disk for example; they are left out.
func lockHolders(dir machine.Dir) (supervisors, hypervisors []process, err error) {
	holders, err := holdersOf(dir.Lock())
	for _, p := range holders {
		switch {
		case p.supervises():
			supervisors = append(supervisors, p)
		case p.virtualizes():
			hypervisors = append(hypervisors, p)
		}
	}
	return supervisors, hypervisors, err
}

func killAll(processes []process) error {
	for _, p := range processes {
		if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("killing process %d: %w", p.pid, err)
		}
	}
	return nil
}

// endOrphan ends a hypervisor that has outlived its supervisor. A supervisor has the
// lock before its hypervisor has, so one that was there at the first look and has no
// supervisor at the second has lost it.
func endOrphan(ctx context.Context, dir machine.Dir, name string) error {
	held, err := dir.Held()
	if err != nil || !held {
		return err
	}
	deadline := time.Now().Add(endTimeout)
	for again := false; ; again = true {
		supervisors, hypervisors, err := lockHolders(dir)
		if err != nil || len(supervisors) > 0 || len(hypervisors) == 0 {
			return err
		}
		if again {
			if err := killAll(hypervisors); err != nil {
				return fmt.Errorf("ending the VM that machine %q left: %w", name, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return fmt.Errorf("ending the VM that machine %q left: it does not end", name)
		}
	}
}

// silent returns why nobody answers for a machine whose lock is held.
func silent(dir machine.Dir, name string) error {
	supervisors, hypervisors, err := lockHolders(dir)
	switch {
	case err != nil:
		return err
	case len(supervisors)+len(hypervisors) == 0:
		return &BusyError{name}
	}
	return &UnresponsiveError{name}
}

// UnresponsiveError says that a machine's supervisor is stuck or gone, and its
// hypervisor is not.
type UnresponsiveError struct{ Name string }

func (e *UnresponsiveError) Error() string {
	return fmt.Sprintf("machine %q does not answer: its supervisor is stuck or gone", e.Name)
}

// Hint says how to go on.
func (e *UnresponsiveError) Hint() string {
	return fmt.Sprintf("end the machine with: hyve kill %s", e.Name)
}

// BusyError says that another command works on a machine that does not run.
type BusyError struct{ Name string }

func (e *BusyError) Error() string {
	return fmt.Sprintf("another hyve command is at work on machine %q", e.Name)
}

// Hint says how to go on.
func (e *BusyError) Hint() string { return "try again when it has ended" }
