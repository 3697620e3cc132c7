package lifecycle

import (
	"context"

	"github.com/hyve-vm/hyve/internal/machine"
)

// Throwaway makes a machine for the time that f takes, and removes it then. It is a
// clone of from or, if that is nil, a new one. The machine is killed when this process
// ends before that, and removed by a later creation.
func Throwaway(ctx context.Context, home machine.Home, options CreateOptions, from *machine.Machine, follow Follower, f func(*machine.Machine) error) error {
	var m *machine.Machine
	var err error
	if from != nil {
		m, err = Clone(ctx, from, CloneOptions{Name: options.Spec.Name, Throwaway: true}, follow)
	} else {
		options.Spec.Throwaway = true
		m, err = Create(ctx, home, options, follow)
	}
	if err != nil {
		return err
	}
	owner, err := m.Dir().Own()
	if err != nil {
		return undo(m, err)
	}
	defer owner.Release()
	return undo(m, f(m))
}
