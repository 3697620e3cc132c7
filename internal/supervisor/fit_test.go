package supervisor

import (
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/image"
)

// The kernel is the file that the hypervisor boots.
func TestKernelForm(t *testing.T) {
	m, img := testMachine(t), &image.Image{Dir: "/image"}
	for form, want := range map[hypervisor.KernelForm]string{hypervisor.Unpacked: img.Kernel(), hypervisor.AsShipped: img.KernelOriginal()} {
		if got := vmConfig(m, img, form, "", "").Kernel; got != want {
			t.Errorf("%s is booted, not %s", got, want)
		}
	}
}

// A hypervisor that cannot run an image's guest is named before it is started.
func TestFit(t *testing.T) {
	for name, test := range map[string]struct {
		can  hypervisor.Capabilities
		says string
	}{
		"fits":           {hypervisor.Capabilities{Channels: hypervisor.Ports}, ""},
		"other channels": {hypervisor.Capabilities{Channels: hypervisor.Vsock}, "vsock"},
	} {
		p := resources{hypervisor: fakeBackend{}, accel: hypervisor.Verdict{Capabilities: test.can}}
		err := p.fit()
		if (err == nil) != (test.says == "") || err != nil && (!strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "Fake 1.0")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
