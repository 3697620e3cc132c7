package qemu

import (
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

func TestCheck(t *testing.T) {
	if err := Check(goldenConfig()); err != nil {
		t.Fatal(err)
	}
	path := func(length int) string { return "/" + strings.Repeat("s", length-1) }
	fits := goldenConfig()
	fits.Channels[0].Socket, fits.Network.Socket = path(MaxSocketPath), path(MaxSocketPath)
	if err := Check(fits); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*hypervisor.Config){
		"0 CPUs":                         func(c *hypervisor.Config) { c.CPUs = 0 },
		"not a multiple of 1 MiB":        func(c *hypervisor.Config) { c.Memory++ },
		"memory of 0 bytes":              func(c *hypervisor.Config) { c.Memory = 0 },
		"no kernel":                      func(c *hypervisor.Config) { c.Kernel = "" },
		`"vmlinux" is not absolute`:      func(c *hypervisor.Config) { c.Kernel = "vmlinux" },
		"initrd":                         func(c *hypervisor.Config) { c.Initrd = "/a\xff" },
		"is not UTF-8":                   func(c *hypervisor.Config) { c.Disks[0].Path = "/a\xff" },
		"NUL":                            func(c *hypervisor.Config) { c.Cmdline = "a\x00b" },
		"generation":                     func(c *hypervisor.Config) { c.Generation = "auto" },
		`serial ""`:                      func(c *hypervisor.Config) { c.Disks[0].Serial = "" },
		`serial "abcdefghijklmnopqrstu"`: func(c *hypervisor.Config) { c.Disks[0].Serial = "abcdefghijklmnopqrstu" },
		"two of that serial":             func(c *hypervisor.Config) { c.Disks[0].Serial = c.Disks[1].Serial },
		"no name":                        func(c *hypervisor.Config) { c.Channels[0].Name = "" },
		"31 channels, at most 30":        func(c *hypervisor.Config) { c.Channels = make([]hypervisor.Channel, 31) },
		"channel hyve.control: socket path of 104 bytes, at most 103": func(c *hypervisor.Config) { c.Channels[0].Socket = path(104) },
		"network: socket path of 104 bytes":                           func(c *hypervisor.Config) { c.Network.Socket = path(104) },
		`"01:00:5e:00:00:01"`:                                         func(c *hypervisor.Config) { c.Network.MAC = "01:00:5e:00:00:01" },
		`""`:                                                          func(c *hypervisor.Config) { c.Network.MAC = "" },
		"MTU 67 is not from 68 to 65535":                              func(c *hypervisor.Config) { c.Network.MTU = 67 },
		"MTU 65536":                                                   func(c *hypervisor.Config) { c.Network.MTU = 65536 },
	} {
		cfg := goldenConfig()
		change(&cfg)
		if err := Check(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}
