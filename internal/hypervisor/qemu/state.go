package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// What a VM may do, in QEMU's words.
const (
	statusPaused  = "paused"
	statusIOError = "io-error"
)

// Status is QEMU's word for what the VM does: "running", "paused", "io-error",
// "shutdown", "internal-error", …
func (vm *VM) Status(ctx context.Context) (string, error) {
	var s struct {
		Status string `json:"status"`
	}
	err := vm.monitor.Execute(ctx, "query-status", nil, &s)
	return s.Status, err
}

// Pause pauses the VM. After an error it may be paused nevertheless.
func (vm *VM) Pause(ctx context.Context) error {
	err := vm.monitor.Execute(ctx, "stop", nil, nil)
	if err == nil {
		err = vm.isPaused(ctx)
	}
	if err != nil {
		return fmt.Errorf("pausing the VM: %w", err)
	}
	return nil
}

// isPaused makes sure that the VM does nothing. One that QEMU has paused is another
// matter: there is a write that it has yet to do.
func (vm *VM) isPaused(ctx context.Context) error {
	status, err := vm.Status(ctx)
	if err == nil && status != statusPaused {
		err = fmt.Errorf("it is in state %q", status)
	}
	return err
}

// Resume resumes a paused VM.
func (vm *VM) Resume(ctx context.Context) error {
	err := vm.monitor.Execute(ctx, "cont", nil, nil)
	if err == nil {
		vm.takeBack(ctx)
	}
	return err
}

// Retry lets a VM go on that QEMU has paused because the host's disk was full, and no
// other.
func (vm *VM) Retry(ctx context.Context) error {
	if status, err := vm.Status(ctx); err != nil || status != statusIOError {
		return err
	}
	return vm.Resume(ctx)
}

// Quit pulls the plug, through QEMU: its disks are flushed and closed. It
// returns when QEMU has ended, or with ctx.
func (vm *VM) Quit(ctx context.Context) error {
	vm.markQuit()
	err := vm.monitor.Execute(ctx, "quit", nil, nil)
	if err != nil && !errors.Is(err, ErrMonitorClosed) {
		return err
	}
	select {
	case <-vm.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for QEMU to quit: %w", ctx.Err())
	}
}

// Kill ends QEMU at once (SIGKILL). Done tells when it has.
func (vm *VM) Kill() error {
	vm.markQuit()
	if err := vm.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing QEMU: %w", err)
	}
	return nil
}

func (vm *VM) markQuit() {
	vm.mu.Lock()
	vm.quit = true
	vm.mu.Unlock()
}
