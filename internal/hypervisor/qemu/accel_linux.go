package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const hostAccel = accelKVM

// testHost opens /dev/kvm, which is cheap and may change at any time, and then
// has a guest run, unless that was done since the host booted; if it was in vain, unless
// that was less than believed ago.
func testHost(ctx context.Context, q *QEMU, believed time.Duration) (hostVerdict, bool) {
	dev, v := openKVM("/dev/kvm")
	if dev == nil {
		return v, false
	}
	defer dev.Close()
	key := kvmKey(dev, q)
	if key != "" {
		if v, ok := loadCached[hostVerdict](q.cacheDir, "accel.json", key); ok && (v.Works || fresh(v.Tested, believed)) {
			return v, true
		}
	}
	began := time.Now()
	v = testKVM(ctx, dev)
	v.Took, v.Tested = time.Since(began), began.Round(0)
	if v.final && key != "" {
		storeCached(q.cacheDir, "accel.json", key, v)
	}
	return v, false
}

// fresh says that t was less than age ago, and not in the future.
func fresh(t time.Time, age time.Duration) bool {
	since := time.Since(t)
	return since >= 0 && since < age
}

// kvmKey names the state that was tested: this boot, this device (its inode is
// new after the module was loaded anew), this QEMU. Empty: do not keep.
func kvmKey(dev *os.File, q *QEMU) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dev.Fd()), &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%s kvm %d:%d:%d test %d %s %s", strings.TrimSpace(string(boot)), st.Dev, st.Ino, st.Rdev, kvmTestVersion, q.Version, q.key)
}

// openKVM opens the device, or says in plain words why it cannot.
func openKVM(path string) (*os.File, hostVerdict) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return f, hostVerdict{}
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, hostVerdict{
			Reason: path + " does not exist",
			Hint:   "switch virtualization (VT-x, AMD-V) on in the firmware, or nested virtualization if this is a VM, and load the module: sudo modprobe kvm_intel or kvm_amd",
		}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, hostVerdict{
			Reason: "no permission to open " + path,
			Hint:   "join the group that owns it, then log in again: sudo usermod -aG kvm $USER",
		}
	case errors.Is(err, unix.EBUSY):
		return nil, hostVerdict{Reason: path + " is busy", Hint: "another hypervisor (VirtualBox?) holds the processor's virtualization; end it"}
	default:
		return nil, hostVerdict{Reason: fmt.Sprintf("opening %s: %v", path, errors.Unwrap(err))}
	}
}
