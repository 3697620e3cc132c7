package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/machine"
)

// Stop stops a machine cleanly and waits until it has ended: containers first,
// then everything is written to the disk. Where it can be, the machine is frozen
// there, with its engine idle, and the next Start goes on from that; cold, it shuts
// down. The error is ErrAlready if it did not run; cold, it boots next nevertheless.
func Stop(ctx context.Context, dir machine.Dir, name string, cold bool, follow func(control.Status)) error {
	err := stop(ctx, dir, name, control.StopRequest{Freeze: !cold}, follow)
	if cold && errors.Is(err, ErrAlready) {
		if err := dropFrozen(dir, name, false); err != nil {
			return err
		}
	}
	return err
}

// dropFrozen drops the state of a machine that is frozen with nothing in it; suspended, also
// one with containers that run.
func dropFrozen(dir machine.Dir, name string, suspended bool) error {
	lock, err := dir.Acquire()
	if errors.Is(err, machine.ErrLocked) {
		return &BusyError{name}
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	if _, runs := frozen.Exists(dir.Frozen()); runs && !suspended {
		return &SuspendedError{name}
	}
	return frozen.Drop(dir.Frozen())
}

// SuspendedError says that a machine has containers that would be lost if it was not
// resumed.
type SuspendedError struct{ Name string }

func (e *SuspendedError) Error() string {
	return fmt.Sprintf("machine %q is suspended, with containers that run", e.Name)
}

// Hint says how to go on.
func (e *SuspendedError) Hint() string { return "resume it first: hyve resume " + e.Name }

// Suspend freezes a machine with everything that runs in it. Where that cannot be
// done it is an error, and the machine runs on. The error is ErrAlready if it did
// not run.
func Suspend(ctx context.Context, dir machine.Dir, name string, follow func(control.Status)) error {
	return stop(ctx, dir, name, control.StopRequest{Suspend: true}, follow)
}

// How long a supervisor may take to say that it will stop, and whatever has been killed
// to end.
const (
	obeyTimeout = 3 * time.Second
	endTimeout  = 10 * time.Second
)

// Kill ends a machine without asking what runs in it, and also one whose supervisor is
// stuck or gone. A guest that answers within a second writes to its disk before. The
// error is ErrAlready if it did not run.
func Kill(ctx context.Context, dir machine.Dir, name string) error {
	return kill(ctx, dir, name, control.StopRequest{Kill: true, Sync: true})
}

// pullPlug is Kill for a machine whose disk is of no use any more.
func pullPlug(ctx context.Context, dir machine.Dir, name string) error {
	return kill(ctx, dir, name, control.StopRequest{Kill: true})
}

func kill(ctx context.Context, dir machine.Dir, name string, request control.StopRequest) error {
	patient, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	err := stop(patient, dir, name, request, func(control.Status) {})
	if busy := (*BusyError)(nil); err == nil || errors.Is(err, ErrAlready) || errors.As(err, &busy) || ctx.Err() != nil {
		return err
	}
	supervisors, hypervisors, err := lockHolders(dir)
	if err == nil {
		err = killAll(append(supervisors, hypervisors...))
	}
	if err != nil {
		return fmt.Errorf("killing machine %q: %w", name, err)
	}
	return waitFree(ctx, dir, name, 0)
}

func stop(ctx context.Context, dir machine.Dir, name string, request control.StopRequest, follow func(control.Status)) error {
	held, err := dir.Held()
	if err != nil {
		return err
	}
	if !held {
		return ErrAlready
	}
	client := control.NewClient(dir.ControlSocket())
	asking := ctx
	if request.Suspend { // which is answered when it is done
		if err := responding(ctx, dir, name); err != nil {
			return err
		}
	} else {
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, obeyTimeout)
		defer cancel()
	}
	err = client.Stop(asking, request)
	if errors.Is(err, control.ErrNoAnswer) || asking.Err() != nil && ctx.Err() == nil {
		err := silent(dir, name)
		if held, _ := dir.Held(); !held {
			return nil // it ended meanwhile
		}
		return err
	}
	if err != nil {
		return err
	}
	pid := 0
	client.Watch(ctx, func(status control.Status) bool {
		follow(status)
		pid = status.PID
		return status.State != control.Stopped
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return waitFree(ctx, dir, name, pid)
}

// waitFree waits for a machine's lock, which its processes give up as they end. Unless pid is
// 0 it is its supervisor's that ends: another one's run is another.
func waitFree(ctx context.Context, dir machine.Dir, name string, pid int) error {
	for deadline := time.Now().Add(endTimeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if held, err := dir.Held(); err != nil || !held {
			return err
		}
		if pid != 0 {
			if now, err := ask(ctx, dir); err == nil && now.PID != pid {
				return nil // started again
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return fmt.Errorf("stopping machine %q: its processes do not end", name)
}

// Remove deletes a machine and all that is in it, be it broken. One that runs is killed.
func Remove(ctx context.Context, home machine.Home, name string) error {
	if err := machine.CheckName(name); err != nil {
		return err
	}
	dir := home.Dir(name)
	if _, err := os.Stat(string(dir)); errors.Is(err, os.ErrNotExist) {
		return &machine.NotFoundError{Name: name}
	}
	if err := pullPlug(ctx, dir, name); err != nil && !errors.Is(err, ErrAlready) {
		return err
	}
	lock, err := dir.Acquire()
	if errors.Is(err, machine.ErrLocked) {
		return &BusyError{name}
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	return home.Remove(name)
}
