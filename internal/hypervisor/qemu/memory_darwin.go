package qemu

import (
	"context"
	"errors"
	"os"
	"os/exec"

	"github.com/hyve-vm/hyve/internal/confine"
	"github.com/hyve-vm/hyve/internal/sparse"
)

func memoryHidden() string { return "this system lets nobody read a guest's memory" }

var errNoMemory = errors.New(memoryHidden())

func (vm *VM) saveMemory(context.Context, *sparse.Writer) error { return errNoMemory }
func (vm *VM) loadMemory(context.Context, *os.File) error       { return errNoMemory }

func startGuarded(confine.Plan, *os.File) (*exec.Cmd, confine.Level, error) {
	return nil, confine.Level{}, errNoMemory
}

// canShareMemory says why thawed VMs cannot share memory.
func canShareMemory() error { return errNoMemory }

// guestProcessor has no use where nothing is frozen.
func guestProcessor() (string, error) { return "", errNoMemory }
