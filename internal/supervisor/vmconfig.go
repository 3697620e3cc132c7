package supervisor

import (
	"strings"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/network"
)

// vmConfig translates a machine in the user's words into hardware. Kernel
// parameters that the accelerator wants are given in accelCmdline.
func vmConfig(m *machine.Machine, img *image.Image, accelCmdline, generation string) hypervisor.Config {
	dir := m.Dir()
	return hypervisor.Config{
		Name:    hypervisor.NamePrefix + m.Name,
		CPUs:    m.CPUs,
		Memory:  m.Memory,
		Kernel:  img.Kernel(),
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
