package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/sparse"
)

// eventMigration tells of a migration's state. QEMU's word for thawing is an incoming
// migration.
const eventMigration = "MIGRATION"

// Freeze pauses the VM and writes what it consists of, all but its disks, to files: to
// the path devices and to memory, which is of the size of the VM's. Its disks have been
// flushed then and are not written to, until Resume lets it go on or Quit ends it.
// After an error it runs on.
//
// What is written can be thawed by the same QEMU, with a Config that differs in
// nothing but host paths and the generation: see Shape.
//
// QEMU's own migration would write the memory, too, but has to look at each page for it,
// also at those that are nowhere yet. So it is asked for the rest alone, by a command
// that was made for Xen, and what it says is loaded as the migration that it is.
func (vm *VM) Freeze(ctx context.Context, devices string, memory *sparse.Writer) error {
	err := vm.Pause(ctx)
	if err == nil {
		// The disks stay this VM's: it may go on.
		err = vm.saveDevices(ctx, devices)
	}
	if err == nil {
		err = vm.saveMemory(ctx, memory)
	}
	if err == nil {
		err = vm.isPaused(ctx) // still
	}
	if err != nil {
		return errors.Join(fmt.Errorf("freezing the VM: %w", err), vm.Resume(context.WithoutCancel(ctx)))
	}
	return nil
}

// saveDevices has QEMU write the state of its devices to a new file, which it gets as a
// descriptor.
func (vm *VM) saveDevices(ctx context.Context, path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := vm.monitor.ExecuteWithFile(ctx, "add-fd", nil, file, &set); err != nil {
		return err
	}
	vm.mu.Lock()
	vm.lent = append(vm.lent, set.ID)
	vm.mu.Unlock()
	err = vm.monitor.Execute(ctx, "xen-save-devices-state", opts{"filename": fdset(set.ID), "live": false}, nil)
	return orNoRoom(err, path)
}

// devicesRoom is what the state of all devices takes, in bytes: a third of it.
const devicesRoom = 1 << 20

// orNoRoom returns an error of QEMU's, which does not say why it could not write a file, or
// that there is no room for it.
func orNoRoom(err error, path string) error {
	var st unix.Statfs_t
	if err == nil || unix.Statfs(filepath.Dir(path), &st) != nil || uint64(st.Bavail)*uint64(st.Bsize) >= devicesRoom {
		return err
	}
	return &os.PathError{Op: "write", Path: path, Err: unix.ENOSPC}
}

// takeBack has QEMU close the files that saveDevices has lent it. Up to QEMU 9.0 it does
// so in a VM that runs, and only then. What it keeps costs a descriptor.
func (vm *VM) takeBack(ctx context.Context) {
	vm.mu.Lock()
	lent := vm.lent
	vm.lent = nil
	vm.mu.Unlock()
	for _, set := range lent {
		_ = vm.monitor.Execute(ctx, "remove-fd", opts{"fdset-id": set}, nil)
	}
}

// thaw reads what Freeze has written; the VM is still paused then.
func (vm *VM) thaw(ctx context.Context, state hypervisor.State, take func() (hypervisor.State, error)) (err error) {
	if take != nil {
		if state, err = take(); err != nil {
			return err
		}
	}
	if vm.origin == nil {
		memory, err := os.Open(state.Memory)
		if err != nil {
			return err
		}
		defer memory.Close()
		if err := vm.loadMemory(ctx, memory); err != nil {
			return fmt.Errorf("thawing the VM: %w", err)
		}
	}
	devices, err := os.Open(state.Devices)
	if err != nil {
		return err
	}
	defer devices.Close()
	if err := vm.migrate(ctx, devices); err != nil {
		return fmt.Errorf("thawing the VM: %w", err)
	}
	return nil
}

// migrate runs a migration from a file and waits for its end.
func (vm *VM) migrate(ctx context.Context, from *os.File) error {
	const fd = "state"
	if err := vm.monitor.ExecuteWithFile(ctx, "getfd", opts{"fdname": fd}, from, nil); err != nil {
		return err
	}
	for _, step := range []struct {
		command   string
		arguments opts
	}{
		{"migrate-set-capabilities", opts{"capabilities": []opts{{"capability": "events", "state": true}}}},
		{"migrate-incoming", opts{"uri": "fd:" + fd}},
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
