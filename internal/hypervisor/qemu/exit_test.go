package qemu

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// TestStartFailures has the real QEMU say why it cannot, and expects plain
// words for it, at once.
func TestStartFailures(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, q *QEMU, cfg *hypervisor.Config)
		want   string // in the error
		hint   bool
	}{
		{"kernel absent", func(t *testing.T, q *QEMU, cfg *hypervisor.Config) { cfg.Kernel = "/nonexistent/vmlinux" }, "/nonexistent/vmlinux", false},
		{"initrd absent", func(t *testing.T, q *QEMU, cfg *hypervisor.Config) { cfg.Initrd = "/nonexistent/initrd" }, "/nonexistent/initrd", false},
		{"disk absent", func(t *testing.T, q *QEMU, cfg *hypervisor.Config) { cfg.Disks[1].Path = "/nonexistent/disk" }, "opening /nonexistent/disk: no such file or directory", false},
		{"nobody on a channel", func(t *testing.T, q *QEMU, cfg *hypervisor.Config) { cfg.Channels[0].Socket = "/nonexistent/c" }, "nobody listens on socket /nonexistent/c", false},
		{"nobody on the network", func(t *testing.T, q *QEMU, cfg *hypervisor.Config) { cfg.Network.Socket = "/nonexistent/n" }, "nobody listens on socket /nonexistent/n", false},
		{"more memory than can be", func(t *testing.T, q *QEMU, cfg *hypervisor.Config) { cfg.Memory = 1 << 46 }, "memory", true},
		{"more CPUs than can be", func(t *testing.T, q *QEMU, cfg *hypervisor.Config) { cfg.CPUs = 5000 }, "CPUs", false},
		{"disk in use", func(t *testing.T, q *QEMU, cfg *hypervisor.Config) {
			other := fullConfig(t, guestHang)
			start(t, q, other, hypervisor.Options{})
			cfg.Disks[1].Path = other.Disks[1].Path
		}, "data {}.img is in use by another process", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, q *QEMU) {
				cfg := fullConfig(t, guestHang)
				tt.change(t, q, &cfg)
				began := time.Now()
				vm, err := Start(t.Context(), q, cfg, hypervisor.Options{})
				took := time.Since(began)
				if err == nil {
					_ = vm.Kill()
					t.Fatal("it started")
				}
				t.Logf("%s: %v; hint: %s", took.Round(time.Millisecond), err, hint.Of(err))
				if !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\n") {
					t.Errorf("%q lacks %q", err, tt.want)
				}
				if (hint.Of(err) != "") != tt.hint {
					t.Errorf("hint %q", hint.Of(err))
				}
				if took > 5*time.Second {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

// TestCrash: what ends QEMU from outside is no fault of its own.
func TestCrash(t *testing.T) {
	for signal, crashed := range map[syscall.Signal]bool{syscall.SIGABRT: true, syscall.SIGSEGV: true, syscall.SIGKILL: false} {
		onEach(t, func(t *testing.T, q *QEMU) {
			vm := start(t, q, fullConfig(t, guestHang), hypervisor.Options{})
			if err := syscall.Kill(vm.PID(), signal); err != nil {
				t.Fatal(err)
			}
			<-vm.Done()
			if err := vm.Err(); err == nil || errors.Is(err, hypervisor.ErrCrashed) != crashed {
				t.Errorf("after %s: %v", signal, err)
			}
		})
	}
}

// TestSharedDisk: any number of VMs may run on the same read-only disk.
func TestSharedDisk(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		one, two := fullConfig(t, guestHang), fullConfig(t, guestHang)
		two.Disks[0].Path = one.Disks[0].Path
		start(t, q, one, hypervisor.Options{})
		start(t, q, two, hypervisor.Options{})
	})
}

func TestStartCancelled(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Start(ctx, q, fullConfig(t, guestHang), hypervisor.Options{}); err == nil || !strings.Contains(err.Error(), "canceled") {
			t.Errorf("%v", err)
		}
	})
}

// TestStderrReader: who keeps QEMU's messages may be slow or gone.
func TestStderrReader(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		r, w := io.Pipe()
		r.Close()
		cfg := fullConfig(t, guestHang)
		cfg.Kernel = "/nonexistent/vmlinux"
		if _, err := Start(t.Context(), q, cfg, hypervisor.Options{Stderr: w}); err == nil || !strings.Contains(err.Error(), cfg.Kernel) {
			t.Errorf("%v", err)
		}
	})
}

// TestConsoleReader: who keeps what the guest says may be slow or gone.
func TestConsoleReader(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		r, w := io.Pipe()
		r.Close()
		start(t, q, fullConfig(t, guestHang), hypervisor.Options{Console: w})
		vm := start(t, q, fullConfig(t, guestReset), hypervisor.Options{})
		wait(t, vm)
		select {
		case <-vm.consoleRead:
		default:
			t.Error("the VM has ended, and its console has not")
		}
	})
}

func TestCause(t *testing.T) {
	for _, tt := range []struct{ stderr, want string }{
		{"", ""},
		{"qemu-system-x86_64: -device {\"driver\":\"x\"}: 'x' is not a valid device model name\n", `-device {"driver":"x"}: 'x' is not a valid device model name`},
		{"qemu-system-x86_64: could not load kernel\nqemu-system-x86_64: warning: something else\n\n", "could not load kernel"},
		{"/opt/qemu/bin/qemu-system-aarch64: first\n/opt/qemu/bin/qemu-system-aarch64: second", "second"},
		{"**\nERROR:../system/cpus.c:504: assertion failed: (x)\nBail out! ERROR:../system/cpus.c:504: assertion failed: (x)\n", "Bail out! ERROR:../system/cpus.c:504: assertion failed: (x)"},
		{"bad \xff bytes\r\n", "bad ? bytes"},
	} {
		w := &tailWriter{max: 4096}
		_, _ = w.Write([]byte(tt.stderr))
		if got := w.cause(); got != tt.want {
			t.Errorf("cause of %q is %q, want %q", tt.stderr, got, tt.want)
		}
	}
}

// Whatever QEMU said before it was killed, what to do is said, too.
func TestKilledAfterAWord(t *testing.T) {
	for _, said := range []string{"", "qemu-system-x86_64: something of long ago\n"} {
		vm := &VM{fds: &descriptors{}, stderr: &tailWriter{max: 4096}}
		_, _ = vm.stderr.Write([]byte(said))
		err := vm.exitCause(exec.Command("sh", "-c", "kill -9 $$").Run())
		if !errors.Is(err, hypervisor.ErrKilled) || hint.Of(err) == "" || strings.Contains(err.Error(), "long ago") != (said != "") {
			t.Errorf("after %q: %v", said, err)
		}
	}
}

func TestTailWriter(t *testing.T) {
	var all strings.Builder
	w := &tailWriter{max: 10, next: &all}
	for _, s := range []string{"abc", "defghijk", strings.Repeat("x", 25), "yz"} {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := string(w.buf); got != "xxxxxxxxyz" {
		t.Errorf("tail %q", got)
	}
	if all.Len() != 38 {
		t.Errorf("passed on %q", all.String())
	}
}

func TestReadable(t *testing.T) {
	for _, tt := range []struct{ said, want string }{
		{`-blockdev {"driver":"raw"}: Failed to get "write" lock; Is another process using the image [/a b/c]?`, "disk /a b/c is in use by another process"},
		{`-device {"drive":"d"}: Failed to get shared "write" lock; Is another process using the image [/x]?`, "disk /x is in use by another process"},
		{"cannot set up guest memory 'ram': Cannot allocate memory", "the host cannot provide the VM's memory: Cannot allocate memory"},
		{"Could not access KVM kernel module: Permission denied", "the kernel's KVM cannot be used: Permission denied"},
		{"something nobody has seen", "something nobody has seen"},
	} {
		if got := readable(tt.said).Error(); got != tt.want {
			t.Errorf("%q is %q, want %q", tt.said, got, tt.want)
		}
	}
}
