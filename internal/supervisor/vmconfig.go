package supervisor

import (
	"strings"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/network"
)

// vmConfig translates a machine in the user's words into hardware, with the kernel in the
// form that the hypervisor boots. Kernel parameters that the accelerator wants are given in
// accelCmdline.
func vmConfig(m *machine.Machine, img *image.Image, form hypervisor.KernelForm, accelCmdline, generation string) hypervisor.Config {
	dir, kernel := m.Dir(), img.Kernel()
	if form == hypervisor.AsShipped {
		kernel = img.KernelOriginal()
	}
	return hypervisor.Config{
		Name:    hypervisor.NamePrefix + m.Name,
		CPUs:    m.CPUs,
		Memory:  m.Memory,
		Kernel:  kernel,
		Initrd:  img.Initrd(),
		Cmdline: strings.Join(strings.Fields("console=hvc0 quiet "+img.Manifest.Cmdline+" "+accelCmdline), " "),
		Disks: []hypervisor.Disk{
			{Serial: guestapi.RootDisk, Path: img.Root(), ReadOnly: true},
			{Serial: guestapi.DataDisk, Path: dir.Disk()},
		},
		Channels:   []hypervisor.Channel{{Name: guestapi.Port, Socket: dir.GuestSocket()}},
		Network:    hypervisor.Network{Socket: dir.NetworkSocket(), MAC: network.GuestMAC, MTU: network.DefaultMTU},
		Console:    true,
		Generation: generation,
	}
}
