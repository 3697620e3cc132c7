package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// That /dev/kvm opens and makes VMs proves little: inside some VMs it is backed
// by software (PVM) that runs a guest's user code at full speed and emulates
// its kernel, instruction by instruction, at a five-hundredth of the speed, and
// not every instruction. SeaBIOS gets through, Linux hangs or dies without a
// word. So a guest of a few bytes is run in kernel mode: a plain loop that
// hardware is through with in a millisecond, then the instructions on which a
// stock kernel depends (kvm_linux_*.go).

const (
	// kvmTestVersion is part of the key under which a verdict is kept; it
	// changes with the test.
	kvmTestVersion = 2

	kvmSpins = 1_000_000 // iterations of the plain loop, of two instructions

	// kvmSlowest is how many instructions a second hardware runs at least. Real hardware
	// runs a thousand million and more, one that is itself emulated 64 million on an
	// idle host, and the software met so far two million.
	kvmSlowest = 8_000_000

	// The guest runs once for as long as hardware takes; if it is not through then, a
	// second time, for as long as it may take at kvmSlowest. Both are processor time.
	kvmShort = 25 * time.Millisecond
	kvmWhole = 2 * kvmSpins * time.Second / kvmSlowest
	// kvmEnough is how much of it shows a rate.
	kvmEnough = 20 * time.Millisecond

	// kvmPatience bounds a run, however busy the host is. A run that was told to stop has
	// kvmGrace to do so, of processor time and, ten times that, of everybody's.
	kvmPatience = 3 * time.Second
	kvmGrace    = 200 * time.Millisecond

	kvmMemory = 64 << 10 // bytes of the guest's memory
)

// From linux/kvm.h; the numbers are part of the kernel's interface.
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmCheckExtension      = 0xae03
	kvmGetVCPUMmapSize     = 0xae04
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmRun                 = 0xae80

	kvmAPIVersion = 12

	kvmExitUnknown       = 0
	kvmExitIO            = 2
	kvmExitHLT           = 5
	kvmExitMMIO          = 6
	kvmExitShutdown      = 8
	kvmExitFailEntry     = 9
	kvmExitInternalError = 17

	// Offsets in struct kvm_run.
	runImmediateExit = 1
	runExitReason    = 8
	runUnion         = 32
)

// guestCPU is one vCPU with its memory, ready to run the test.
type guestCPU struct {
	vm, cpu int
	spins   uint64 // iterations of the plain loop
	memory  []byte // kvmMemory bytes
	run     []byte // struct kvm_run
}

// testKVM runs the test guest, twice unless the first run shows that KVM works. A no is
// final if both runs say it. Without KVM it takes about 0.3 s, of a busy host up to five.
func testKVM(ctx context.Context, dev *os.File) hostVerdict {
	version, err := ioctl(int(dev.Fd()), kvmGetAPIVersion, 0)
	if err != nil {
		return hostVerdict{Reason: fmt.Sprintf("/dev/kvm is not KVM: %v", err)}
	}
	if version != kvmAPIVersion {
		return hostVerdict{Reason: fmt.Sprintf("/dev/kvm speaks version %d of KVM's interface, %d is needed", version, kvmAPIVersion), final: true}
	}
	return twice(func(budget time.Duration) hostVerdict { return tryKVM(ctx, dev, budget) })
}

// twice asks again what is not a yes. Only what was said twice is final.
func twice(try func(budget time.Duration) hostVerdict) hostVerdict {
	first := try(kvmShort)
	if first.Works {
		return first
	}
	second := try(kvmWhole)
	if !second.Works {
		second.final = second.final && first.final
	}
	return second
}

func tryKVM(ctx context.Context, dev *os.File, budget time.Duration) hostVerdict {
	g, err := newGuestCPU(int(dev.Fd()), kvmSpins)
	if errors.Is(err, unix.EBUSY) {
		return hostVerdict{
			Reason: "KVM cannot make a VM: " + err.Error(),
			Hint:   "another hypervisor (VirtualBox?) holds the processor's virtualization; end it",
		}
	}
	if err != nil {
		return hostVerdict{Reason: "KVM cannot make a VM: " + err.Error()}
	}
	return g.try(ctx, budget)
}

// try runs the guest on a thread of its own, for a budget of processor time, sees to it
// that KVM_RUN returns when that is spent, and closes g, some time after it has returned.
func (g *guestCPU) try(ctx context.Context, budget time.Duration) hostVerdict {
	started := make(chan thread, 1)
	result := make(chan hostVerdict, 1)
	over := make(chan struct{}) // nobody looks at g any more
	defer close(over)
	go func() {
		// Signals that interrupt KVM_RUN go to a thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- thisThread()
		result <- g.judge()
		<-over
		g.close() // can take the kernel 50 ms, for which nobody waits
	}()
	runner := <-started
	began := time.Now()
	var stopped time.Time       // when the guest was first told to stop
	var stoppedAt time.Duration // of the runner's processor time
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for {
		select {
		case v := <-result:
			return v
		case <-look.C:
		}
		spent := runner.spent()
		switch {
		case stopped.IsZero() && time.Since(began) < kvmPatience && spent < budget && ctx.Err() == nil:
			continue
		case stopped.IsZero():
			stopped, stoppedAt = time.Now(), spent
		// The goroutine and the VM stay behind until the process ends.
		case spent-stoppedAt > kvmGrace:
			return hostVerdict{Reason: "KVM does not come back from a guest in kernel mode", final: true}
		case time.Since(stopped) > 10*kvmGrace:
			return tooBusy(time.Since(began), spent)
		}
		// The flag is for a KVM_RUN that is about to start, the signal for one
		// that is under way. Go's own scheduler uses SIGURG in the same way, so
		// it means nothing to the rest of the process.
		g.run[runImmediateExit] = 1
		_ = unix.Tgkill(os.Getpid(), runner.id, unix.SIGURG)
	}
}

func tooBusy(took, spent time.Duration) hostVerdict {
	return hostVerdict{
		Reason: fmt.Sprintf("the host was too busy to try KVM: %s of processor time in %s", spent.Round(100*time.Microsecond), took.Round(time.Millisecond)),
		Hint:   "start the machine again when the host is less busy",
	}
}

// thread is a thread of this process and what it had spent when it was made.
type thread struct {
	id    int
	began time.Duration
}

func thisThread() thread {
	t := thread{id: unix.Gettid()}
	t.began = t.time()
	return t
}

// spent is the processor time since thisThread, that of its guest included.
func (t thread) spent() time.Duration { return t.time() - t.began }

// time reads the thread's CPU clock, whose ID is made from the thread's as
// MAKE_THREAD_CPUCLOCK in linux/posix-timers.h does.
func (t thread) time() time.Duration {
	const scheduler, perThread = 2, 4
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^t.id<<3|scheduler|perThread), &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func newGuestCPU(kvm int, spins uint64) (_ *guestCPU, err error) {
	g := &guestCPU{vm: -1, cpu: -1, spins: spins}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if g.vm, err = ioctl(kvm, kvmCreateVM, vmType(kvm)); err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VM: %w", err)
	}
	g.memory, err = unix.Mmap(-1, 0, kvmMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("mapping memory: %w", err)
	}
	region := struct {
		slot, flags       uint32
		guest, size, host uint64
	}{guest: guestBase, size: kvmMemory, host: uint64(uintptr(unsafe.Pointer(&g.memory[0])))}
	if _, err = ioctlPtr(g.vm, kvmSetUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return nil, fmt.Errorf("KVM_SET_USER_MEMORY_REGION: %w", err)
	}
	if g.cpu, err = ioctl(g.vm, kvmCreateVCPU, 0); err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil {
		return nil, fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %w", err)
	}
	if size < 4096 {
		return nil, fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %d bytes", size)
	}
	if g.run, err = unix.Mmap(g.cpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("mapping the vCPU: %w", err)
	}
	return g, g.prepare(kvm)
}

func (g *guestCPU) close() {
	if g.run != nil {
		_ = unix.Munmap(g.run)
	}
	for _, fd := range []int{g.cpu, g.vm} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	if g.memory != nil {
		_ = unix.Munmap(g.memory)
	}
}

// judge runs the guest to its end, or to the end of the caller's patience.
func (g *guestCPU) judge() hostVerdict {
	began, runner := time.Now(), thisThread()
	for {
		_, err := ioctl(g.cpu, kvmRun, 0)
		interrupted := errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN)
		switch {
		case interrupted && g.run[runImmediateExit] != 0:
			return g.outOfTime(time.Since(began), runner.spent())
		case interrupted:
			continue // a signal that was meant for somebody else
		case err != nil:
			return hostVerdict{Reason: "KVM cannot run a guest: KVM_RUN: " + err.Error(), final: true}
		}
		v := g.ended()
		if cpu := runner.spent(); v.Works && cpu > 0 {
			v.Rate = float64(2*g.spins) / cpu.Seconds()
		}
		return v
	}
}

// outOfTime says what a guest that was stopped got done.
func (g *guestCPU) outOfTime(took, cpu time.Duration) hostVerdict {
	left, err := g.spinsLeft()
	if err != nil || left > g.spins {
		left = g.spins
	}
	return blame(2*(g.spins-left), took, cpu)
}

// blame tells a KVM that is slow from a host that is busy, by the rate: by how many
// instructions the guest ran for its processor time.
func blame(instructions uint64, took, cpu time.Duration) hostVerdict {
	if cpu < kvmEnough {
		return tooBusy(took, cpu)
	}
	rate := float64(instructions) / cpu.Seconds()
	if rate >= kvmSlowest {
		return tooBusy(took, cpu)
	}
	return hostVerdict{
		Reason: fmt.Sprintf("KVM does not use hardware here: it emulates the guest's kernel, at %.1f million instructions a second", rate/1e6),
		Hint:   "if this is a VM, switch nested virtualization on for it",
		Rate:   rate,
		final:  true,
	}
}

// ended looks at why the guest stopped.
func (g *guestCPU) ended() hostVerdict {
	broken := func(format string, args ...any) hostVerdict {
		return hostVerdict{
			Reason: "KVM cannot run a kernel here: " + fmt.Sprintf(format, args...),
			Hint:   "if this is a VM, switch nested virtualization on for it",
			final:  true,
		}
	}
	reason := binary.NativeEndian.Uint32(g.run[runExitReason:])
	detail := binary.NativeEndian.Uint64(g.run[runUnion:])
	switch reason {
	case guestDone:
		if err := g.check(); err != nil {
			return broken("%v", err)
		}
		return hostVerdict{Works: true, final: true}
	case kvmExitInternalError:
		return broken("internal error %d%s", uint32(detail), g.where())
	case kvmExitFailEntry:
		return broken("the processor refuses the guest, reason %#x", detail)
	case kvmExitShutdown:
		return broken("the guest died of a triple fault%s", g.where())
	case kvmExitHLT:
		return broken("an instruction gave a wrong result%s", g.where())
	case kvmExitUnknown:
		return broken("unknown exit %#x", detail)
	default:
		return broken("unexpected exit %d%s", reason, g.where())
	}
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

func ioctlPtr(fd int, request uintptr, arg unsafe.Pointer) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
