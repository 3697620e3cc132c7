package supervisor

import (
	"context"

	"github.com/hyve-vm/hyve/internal/hypervisor/qemu"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
)

// CommandLine returns the hypervisor's command line for a machine, which need
// not exist.
func CommandLine(ctx context.Context, m *machine.Machine, img *image.Image) ([]string, error) {
	q, err := qemu.Find(ctx, m.QEMU, m.Home().CacheDir())
	if err != nil {
		return nil, err
	}
	features := q.Features(q.Accelerator(ctx).Name)
	config := vmConfig(m, img, qemu.KernelCmdline(features), newGeneration())
	return append([]string{q.Path}, qemu.Args(config, features)...), nil
}
