package supervisor

import (
	"context"

	"github.com/hyve-vm/hyve/internal/hypervisor/pick"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
)

// CommandLine returns the hypervisor's command line for a machine, which need
// not exist. It changes nothing, and so keeps none of the answers that the hypervisor gives.
func CommandLine(ctx context.Context, m *machine.Machine, img *image.Image) ([]string, error) {
	backend, err := pick.Find(ctx, m.Hypervisor, "")
	if err != nil {
		return nil, err
	}
	accel := backend.Accelerator(ctx)
	config := vmConfig(m, img, accel.Kernel, backend.KernelCmdline(accel.Name), newGeneration())
	return backend.CommandLine(config, accel.Name), nil
}
