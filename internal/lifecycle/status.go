package lifecycle

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/machine"
)

// Overview is a machine with what it does now.
type Overview struct {
	Name    string
	Machine *machine.Machine // nil if it is broken
	Status  control.Status
	Err     error // why it is broken
}

// askTimeout bounds how long a supervisor may take to answer.
const askTimeout = 2 * time.Second

// Status tells what a machine does. It is derived at every call from its lock
// and its supervisor's answer; nothing is stored that could be wrong.
func Status(ctx context.Context, dir machine.Dir) (control.Status, error) {
	status, err := ask(ctx, dir)
	if err == nil && status.State != control.Stopped {
		return status, nil
	}
	held, heldErr := dir.Held()
	switch {
	case heldErr != nil:
		return control.Status{}, heldErr
	case !held:
		return atRest(dir), nil
	case err == nil: // it says Stopped and is about to end
		return status, nil
	case errors.Is(err, control.ErrNoAnswer), errors.Is(err, context.DeadlineExceeded):
		if busy := (*BusyError)(nil); errors.As(silent(dir, ""), &busy) { // copies its disk, for example
			return atRest(dir), nil
		}
		return control.Status{State: control.Unresponsive}, nil
	}
	return control.Status{}, err
}

// responding returns an *UnresponsiveError if a machine's supervisor is stuck. Requests that
// are answered only when their work is done ask this first: nobody is to wait for such a one.
func responding(ctx context.Context, dir machine.Dir, name string) error {
	if status, err := Status(ctx, dir); err == nil && status.State == control.Unresponsive {
		return &UnresponsiveError{name}
	}
	return nil
}

// atRest is the status of a machine that does not run.
func atRest(dir machine.Dir) control.Status {
	status := control.Status{State: control.Stopped, Failure: control.KeptFailure(dir.Failure())}
	var suspended bool
	if status.Frozen, suspended = frozen.Exists(dir.Frozen()); suspended {
		status.State = control.Suspended
	}
	return status
}

// ask asks a machine's supervisor what the machine does.
func ask(ctx context.Context, dir machine.Dir) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return control.NewClient(dir.ControlSocket()).Status(ctx)
}

// List returns all machines by name with what they do, asked side by side.
func List(ctx context.Context, home machine.Home) ([]Overview, error) {
	entries, err := home.List()
	if err != nil {
		return nil, err
	}
	overviews := make([]Overview, len(entries))
	var asked sync.WaitGroup
	for i, e := range entries {
		overviews[i] = Overview{Name: e.Name, Machine: e.Machine, Err: e.Err}
		if e.Err != nil {
			overviews[i].Status.State = control.Broken
			continue
		}
		asked.Go(func() {
			status, err := Status(ctx, e.Machine.Dir())
			if err != nil {
				overviews[i].Err = err
				status.State = control.Broken
			}
			overviews[i].Status = status
		})
	}
	asked.Wait()
	return overviews, nil
}
