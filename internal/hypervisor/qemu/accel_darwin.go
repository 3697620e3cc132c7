package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const hostAccel = accelHVF

// testHost asks the kernel whether Hypervisor.framework may be used. Unlike
// KVM's device, the answer is about the processor: inside a VM without nested
// virtualization it is no. It costs microseconds, so nothing is kept.
func testHost(context.Context, *QEMU, time.Duration) (hostVerdict, bool) {
	support, err := unix.SysctlUint32("kern.hv_support")
	switch {
	case errors.Is(err, unix.ENOENT):
		return hostVerdict{Reason: "this macOS has no Hypervisor.framework"}, false
	case err != nil:
		return hostVerdict{Reason: fmt.Sprintf("reading kern.hv_support: %v", err)}, false
	case support == 0:
		return hostVerdict{
			Reason: "this Mac offers no hardware virtualization (kern.hv_support is 0)",
			Hint:   "inside a VM, switch nested virtualization on; it needs an M3 or newer",
		}, false
	}
	return hostVerdict{Works: true, final: true}, false
}
