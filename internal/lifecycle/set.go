package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/pick"
	"github.com/hyve-vm/hyve/internal/machine"
)

// Set changes settings of a machine, all of them or none. One that runs has at once what
// can change while it does: its disk and what its engine reads again. The rest waits for
// the next start that is no thaw of what runs in it, see machine.Pending. The error is
// ErrAlready if there was nothing to change.
func Set(ctx context.Context, m *machine.Machine, settings machine.Settings) error {
	if err := settle(m); err != nil {
		return err
	}
	host, err := machine.ThisHost(string(m.Home()))
	if err != nil {
		return err
	}
	if settings.Hypervisor != nil {
		if _, err := findHypervisor(ctx, *settings.Hypervisor, m.Home()); err != nil {
			return err
		}
	}
	changed, err := m.Set(settings, host)
	if err != nil {
		return err
	}
	// Also where nothing is new: what went wrong the last time may go well now.
	err = reload(ctx, m)
	if err == nil && !changed {
		return ErrAlready
	}
	return err
}

// findHypervisor finds the one that is asked for, else the host's. What is wrong with one that is
// asked for is the asker's mistake.
func findHypervisor(ctx context.Context, asked string, home machine.Home) (hypervisor.Backend, error) {
	found, err := pick.Find(ctx, asked, home.CacheDir())
	if asked != "" && ctx.Err() == nil {
		err = machine.InvalidValue(err)
	}
	return found, err
}

// reload has the supervisor of a machine, if it runs, read its file.
func reload(ctx context.Context, m *machine.Machine) error {
	if _, err := ask(ctx, m.Dir()); err != nil { // nobody waits for one that is stuck
		if held, heldErr := m.Dir().Held(); heldErr != nil || !held || ctx.Err() != nil {
			return errors.Join(heldErr, ctx.Err())
		}
		if busy := (*BusyError)(nil); errors.As(silent(m.Dir(), m.Name), &busy) {
			return nil // it does not run, another command has its lock
		}
		return fmt.Errorf("the settings are kept, and machine %q has them from its next start on: its supervisor does not answer", m.Name)
	}
	err := control.NewClient(m.Dir().ControlSocket()).Reload(ctx)
	if errors.Is(err, control.ErrNoAnswer) {
		return nil // its next supervisor reads it
	}
	return err
}
