package qemu

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// The accelerators' names, as -accel has them.
const (
	accelKVM = "kvm"
	accelHVF = "hvf"
	accelTCG = "tcg"
)

// ForState implements hypervisor.Backend. Emulation can be had anywhere, hardware only
// where it works, and with the processor that it was. States that do not say what they are
// of are of emulation.
func (q *QEMU) ForState(now hypervisor.Verdict, of hypervisor.Origin) (hypervisor.Verdict, error) {
	accel := cmp.Or(of.Accelerator, accelTCG)
	if accel == accelTCG && now.Name != accelTCG {
		now = hypervisor.Verdict{Name: accelTCG, Reason: "its frozen state is of software emulation", Capabilities: q.capabilities(accelTCG)}
	}
	if now.Name != accel || !now.Freezes() {
		return now, &hypervisor.AcceleratorError{Wanted: accel, Now: now}
	}
	if of.Processor != "" && of.Processor != now.Processor {
		return now, &hypervisor.ProcessorError{Wanted: of.Processor, Now: now.Processor}
	}
	return now, nil
}

// capabilities are what VMs can do with an accelerator.
func (q *QEMU) capabilities(accel string) hypervisor.Capabilities {
	c := hypervisor.Capabilities{
		NoFreeze:  memoryHidden(),
		GivesBack: true, // by the balloon, see comfortArgs
		Frames:    hypervisor.Stream,
		Channels:  hypervisor.Ports,
		Kernel:    hypervisor.Unpacked, // which spares an emulated processor the unpacking
	}
	switch accel {
	case accelTCG:
	case accelKVM:
		var err error
		c.OnTrial = true
		if c.Processor, err = q.guestProcessor(); err != nil {
			c.NoFreeze = err.Error()
		}
	default:
		c.NoFreeze = "freezing is not verified with " + accel + " yet"
	}
	if err := canShareMemory(); err != nil {
		c.NoSharing = err.Error()
	}
	return c
}

// guestProcessor names the processor that guests of the host's accelerator see.
func (q *QEMU) guestProcessor() (string, error) {
	if q.processor != "" {
		return q.processor, nil
	}
	return guestProcessor()
}

// hostVerdict is what the platform's test says about its accelerator.
type hostVerdict struct {
	Works  bool          `json:"works"`
	Reason string        `json:"reason,omitempty"`
	Hint   string        `json:"hint,omitempty"`
	Took   time.Duration `json:"took"`
	Rate   float64       `json:"rate,omitempty"` // instructions a second
	Tested time.Time     `json:"tested"`

	// final is set by a test that ran to its end. Whatever else stands in the
	// way (a permission, a module not loaded, a busy host) may be gone the next
	// time, and is cheap to see again.
	final bool
}

// Accelerator says which accelerator really works, by trying it. The outcome of
// the try is kept until the host boots anew or QEMU changes; a no for
// hypervisor.RefusalAge at most.
func (q *QEMU) Accelerator(ctx context.Context) hypervisor.Verdict {
	return q.accelerator(ctx, hypervisor.RefusalAge)
}

// TryAgain is Accelerator for which no earlier no counts.
func (q *QEMU) TryAgain(ctx context.Context) hypervisor.Verdict { return q.accelerator(ctx, 0) }

func (q *QEMU) accelerator(ctx context.Context, believed time.Duration) hypervisor.Verdict {
	began := time.Now()
	v := hypervisor.Verdict{Name: accelTCG}
	switch {
	case hostAccel == "":
		v.Reason = "this system has no accelerator that QEMU knows"
	case !slices.Contains(q.Accels, hostAccel):
		v.Reason = fmt.Sprintf("%s was built without %s", q.Path, strings.ToUpper(hostAccel))
		v.Hint = installHint()
	default:
		var h hostVerdict
		h, v.Cached = testHost(ctx, q, believed)
		v.Rate, v.Tested = h.Rate, h.Tested
		if h.Works {
			v.Name = hostAccel
		} else {
			v.Reason, v.Hint = h.Reason, h.Hint
		}
	}
	v.Took = time.Since(began)
	v.Capabilities = q.capabilities(v.Name)
	return v
}

// KernelCmdline is what belongs on the guest's kernel command line because of
// the accelerator; the rest is the image's and the machine's.
func KernelCmdline(f Features) string {
	// A panicked kernel would stand for ever; so it resets, which ends QEMU.
	words := []string{"panic=-1"}
	if f.Accel != accelTCG {
		// On real hardware the guest keeps its own defences (mitigations, an
		// address space in random order), seeds itself from more than the
		// processor, and measures its clocks.
		return strings.Join(words, " ")
	}
	words = append(words,
		// Emulated processors do not speculate: the work-arounds cost and
		// protect nothing. Nor is there an attacker inside whom a secret
		// kernel address would stop at emulation's own wall.
		"mitigations=off", "nokaslr",
		// RDRAND is QEMU's own, from the host's generator.
		"random.trust_cpu=on",
		// Self-tests of the ciphers take tenths of a second each.
		"cryptomgr.notests",
	)
	if f.Arch == "amd64" {
		// The emulated counter is the host's clock; watching it by a second
		// one raises false alarms when the host is busy.
		words = append(words, "tsc=reliable")
	}
	if f.cx16Broken() {
		// The kernel does without; programs still see it. To hide it from them
		// too (-cpu max,-cx16) would cost every image built for x86-64-v2 (RHEL
		// 9 and its kin), whose C library refuses to start; and they use the
		// instruction rarely, and look at the one flag that is right.
		words = append(words, "clearcpuid=cx16")
	}
	if f.slowAES() {
		// The guest's Go programs (hyve-init, which ends the engine's TLS, dockerd and
		// containerd, which pull) find this in their environment. They prefer ChaCha20
		// then, and the plain ways of it and of SHA-256 are faster here than those with
		// wide registers: three times the throughput of AES.
		words = append(words, "GODEBUG=cpu.aes=off,cpu.avx=off,cpu.avx2=off")
	}
	if f.retranslates() {
		// Halves the time to a ready engine, which starts iptables a hundred
		// times on the way. The guest switches it on again when it is ready.
		words = append(words, "norandmaps")
	}
	return strings.Join(words, " ")
}

// withTickRate tells a kernel by its command line how fast its processor's counter is, in
// kHz, unless that is 0. On a busy host it would measure it wrong, and its clock be several
// times too fast or too slow for as long as it runs. It is no part of a machine's Shape: it
// differs by a millionth each time.
func withTickRate(cmdline string, rate int) string {
	if cmdline == "" || rate == 0 {
		return cmdline
	}
	return fmt.Sprintf("%s tsc_early_khz=%d", cmdline, rate)
}
