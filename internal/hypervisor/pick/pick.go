// Package pick finds the hypervisor for a machine. It alone knows which there are.
package pick

import (
	"context"

	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/qemu"
)

// Find returns the hypervisor that is asked for, by its path or its name on PATH, or if
// asked is empty the usual one of this host. What it says of itself is kept in cacheDir (not
// if that is empty) until it changes. One that is missing or unfit is an error with a Hint.
func Find(ctx context.Context, asked, cacheDir string) (hypervisor.Backend, error) {
	q, err := qemu.Find(ctx, asked, cacheDir)
	if err != nil {
		return nil, err
	}
	return q, nil
}

// RunsVM tells whether a process with these arguments, its name first, is a hypervisor, of
// any kind, that runs a VM of hyve's.
func RunsVM(args []string) bool { return qemu.RunsVM(args) }
