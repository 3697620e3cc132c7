package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// eventMigration tells of a migration's state. QEMU's word for freezing and
// thawing is migration: out to a file, in from a file.
const eventMigration = "MIGRATION"

// migrationRate bounds a migration, in bytes a second; QEMU's default is 128 MiB.
const migrationRate = 64 << 30

// Freeze pauses the VM and writes what it consists of, all but its disks, to
// state, an empty file. Its disks have been flushed then and are not written to,
// until Continue lets it go on or Quit ends it. After an error it runs on.
//
// What is written can be thawed by the same QEMU, with a Config that differs in
// nothing but host paths and the generation: see Shape.
func (vm *VM) Freeze(ctx context.Context, state *os.File) error {
	if err := vm.Stop(ctx); err != nil {
		return fmt.Errorf("pausing the VM: %w", err)
	}
	if err := vm.migrate(ctx, "migrate", state); err != nil {
		return errors.Join(fmt.Errorf("freezing the VM: %w", err), vm.Continue(context.WithoutCancel(ctx)))
	}
	return nil
}

// thaw reads what Freeze has written; the VM is still paused then.
func (vm *VM) thaw(ctx context.Context, state *os.File) error {
	if err := vm.migrate(ctx, "migrate-incoming", state); err != nil {
		return fmt.Errorf("thawing the VM: %w", err)
	}
	return nil
}

// migrate runs a migration to or from a file and waits for its end.
func (vm *VM) migrate(ctx context.Context, command string, state *os.File) error {
	const fd = "state"
	if err := vm.monitor.ExecuteWithFile(ctx, "getfd", opts{"fdname": fd}, state, nil); err != nil {
		return err
	}
	for _, step := range []struct {
		command   string
		arguments opts
	}{
		{"migrate-set-capabilities", opts{"capabilities": []opts{{"capability": "events", "state": true}}}},
		{"migrate-set-parameters", opts{"max-bandwidth": int64(migrationRate)}},
		{command, opts{"uri": "fd:" + fd}},
	} {
		if err := vm.monitor.Execute(ctx, step.command, step.arguments, nil); err != nil {
			return err
		}
	}
	select {
	case status := <-vm.migrated:
		if status != migrationCompleted {
			return vm.migrationError(ctx, status)
		}
		return nil
	case <-vm.done:
		return errors.Join(errors.New("QEMU ended"), vm.Err())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// migrationError says why a migration did not end well, as far as QEMU knows.
func (vm *VM) migrationError(ctx context.Context, status string) error {
	var answer struct {
		Cause string `json:"error-desc"`
	}
	if err := vm.monitor.Execute(ctx, "query-migrate", nil, &answer); err != nil || answer.Cause == "" {
		return fmt.Errorf("the migration %s", status)
	}
	return fmt.Errorf("the migration %s: %s", status, answer.Cause)
}

// The ends of a migration.
const (
	migrationCompleted = "completed"
	migrationFailed    = "failed"
	migrationCancelled = "cancelled"
)

// noteMigration takes notice of a migration's end.
func (vm *VM) noteMigration(event Event) {
	var data struct {
		Status string `json:"status"`
	}
	if json.Unmarshal(event.Data, &data) != nil {
		return
	}
	switch data.Status {
	case migrationCompleted, migrationFailed, migrationCancelled:
		select {
		case vm.migrated <- data.Status:
		default:
		}
	}
}
