package supervisor

import (
	"context"

	"github.com/hyve-vm/hyve/internal/hypervisor/qemu"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
)

// CommandLine returns the hypervisor's command line for a machine, which need
// not exist. It changes nothing, and so keeps none of the answers that QEMU gives.
func CommandLine(ctx context.Context, m *machine.Machine, img *image.Image) ([]string, error) {
	q, err := qemu.Find(ctx, m.QEMU, "")
	if err != nil {
		return nil, err
	}
	features := q.Features(q.Accelerator(ctx).Name)
	config := vmConfig(m, img, qemu.KernelCmdline(features), newGeneration())
	return append([]string{q.Path}, qemu.Args(config, features)...), nil
}
