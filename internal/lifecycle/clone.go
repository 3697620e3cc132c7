package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/disk"
	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/machine"
)

// CloneOptions says what a clone is to be.
type CloneOptions struct {
	Name    string
	NoStart bool
	// Throwaway is that of the Spec.
	Throwaway bool
	// Contexts is where docker clients find machines.
	Contexts dockerenv.Store
}

// Clone makes a machine that is a copy of another one: its disk and, where there is
// or can be one, its frozen state. Of one that runs, it goes on from the same moment
// with the same containers, under an identity of its own. One of a machine that does
// not run is not started.
func Clone(ctx context.Context, from *machine.Machine, options CloneOptions, follow Follower) (*machine.Machine, error) {
	if err := settle(from); err != nil {
		return nil, err
	}
	home, spec := from.Home(), from.Spec
	spec.Name, spec.Throwaway = options.Name, options.Throwaway
	if err := machine.CheckName(spec.Name); err != nil {
		return nil, err
	}
	if err := home.CheckFree(spec.Name); err != nil {
		return nil, err
	}
	m, err := withIdentity(home, spec)
	if err != nil {
		return nil, err
	}
	draft, err := home.Draft()
	if err != nil {
		return nil, err
	}
	defer draft.Discard()
	follow.Machine(control.Status{State: control.Starting, Activity: "Copying " + from.Name})
	ran, err := copyMachine(ctx, from, draft.Dir())
	if err != nil {
		return nil, fmt.Errorf("cloning machine %q: %w", from.Name, err)
	}
	if err := commitDraft(draft, m); err != nil {
		return nil, err
	}
	_, err = bringUp(ctx, m, (ran || m.Throwaway) && !options.NoStart, options.Contexts, follow)
	return m, err
}

// copyMachine copies what a machine has done, its disk and its state, to a directory
// that has neither. It tells whether the machine runs.
func copyMachine(ctx context.Context, from *machine.Machine, to machine.Dir) (runs bool, err error) {
	if err := settle(from); err != nil {
		return false, err
	}
	dir := from.Dir()
	lock, err := dir.Acquire()
	switch {
	case errors.Is(err, machine.ErrLocked):
		runs = true
		if err = responding(ctx, dir, from.Name); err != nil {
			return runs, err
		}
		err = control.NewClient(dir.ControlSocket()).Copy(ctx, control.CopyRequest{Dir: string(to)})
		if errors.Is(err, control.ErrNoAnswer) {
			err = silent(dir, from.Name)
		}
	case err == nil:
		defer lock.Release()
		if err = disk.Copy(ctx, to.Disk(), dir.Disk()); err == nil {
			err = linkState(dir, to)
		}
	}
	if err != nil {
		return runs, err
	}
	return runs, disk.Sync(to.Disk())
}

// linkState gives a copy of a machine its frozen state, if it has one that fits.
func linkState(from, to machine.Dir) error {
	err := frozen.Link(to.Frozen(), to.Disk(), from.Frozen(), from.Disk())
	if misfit := (*frozen.MisfitError)(nil); errors.Is(err, frozen.ErrNone) || errors.As(err, &misfit) {
		return nil
	}
	return err
}
