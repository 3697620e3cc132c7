package lifecycle

import (
	"context"
	"errors"

	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/machine"
)

// Set changes a setting of a machine, also of one that runs.
func Set(ctx context.Context, m *machine.Machine, setting, value string) error {
	if err := m.Set(setting, value); err != nil {
		return err
	}
	err := control.NewClient(m.Dir().ControlSocket()).Reload(ctx)
	if errors.Is(err, control.ErrNoAnswer) {
		return nil // its next supervisor reads it
	}
	return err
}
