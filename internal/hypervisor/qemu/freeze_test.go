package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/sparse"
)

// A frozen guest goes on in another QEMU, where it was, be its memory shared with what
// was frozen or a copy; and can be frozen again. What was frozen stays as it was.
func TestFreezeAndThaw(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		cfg := fullConfig(t, guestPowerButton)
		dir := t.TempDir()
		freeze := func(vm *VM, name string) hypervisor.State {
			t.Helper()
			state := hypervisor.State{Devices: filepath.Join(dir, name+" devices"), Memory: filepath.Join(dir, name+" memory, 1")}
			memory, err := sparse.Create(state.Memory, cfg.Memory)
			if err != nil {
				t.Fatal(err)
			}
			if err := vm.Freeze(t.Context(), state.Devices, memory); err != nil {
				t.Fatal(err)
			}
			memory.Close()
			if sums := sumOf(t, state); memory.Sum() != sums[1] {
				t.Error("the memory is summed up wrongly")
			}
			if err := vm.Quit(t.Context()); err != nil {
				t.Fatal(err)
			}
			return state
		}
		vm := start(t, q, cfg, hypervisor.Options{})
		time.Sleep(settle()) // to where it listens
		state := freeze(vm, "first")
		before := sumOf(t, state)

		cfg.Generation = "00000000-9abc-def0-1234-56789abcdef0"
		vm = start(t, q, cfg, hypervisor.Options{Thaw: &state})
		if shares := (vm.origin != nil); shares != (runtime.GOOS == "linux") {
			t.Errorf("it shares its memory: %t", shares)
		}
		again := freeze(vm, "second")
		// It may be moved as soon as QEMU has it.
		moved := hypervisor.State{Devices: state.Devices + " moved", Memory: state.Memory + " moved"}
		copier := *q
		copier.copiesMemory = true
		vm = start(t, &copier, cfg, hypervisor.Options{Thaw: &state, Take: func() (hypervisor.State, error) {
			return moved, errors.Join(os.Rename(state.Devices, moved.Devices), os.Rename(state.Memory, moved.Memory))
		}})
		state = moved
		if vm.origin != nil {
			t.Error("it shares a copied memory")
		}
		copied := freeze(vm, "third")
		for _, state := range []hypervisor.State{state, again, copied} {
			vm := start(t, q, cfg, hypervisor.Options{Thaw: &state})
			if status, err := vm.Status(t.Context()); err != nil || status != "running" {
				t.Errorf("status %q, %v", status, err)
			}
			pressUntilOff(t, vm)
			if s := vm.Shutdown(); !s.Guest || s.Reason != ReasonGuestShutdown {
				t.Errorf("shutdown %+v", s)
			}
		}
		if after := sumOf(t, state); after != before {
			t.Error("what was frozen has changed")
		}
		if info, err := os.Stat(state.Memory); err != nil || info.Size() != cfg.Memory ||
			info.Sys().(*syscall.Stat_t).Blocks*512 > cfg.Memory/4 {
			t.Errorf("the memory's file is no sparse one: %+v, %v", info.Sys(), err)
		}

		if _, err := Start(t.Context(), q, cfg, hypervisor.Options{Thaw: &state, Take: func() (hypervisor.State, error) { return state, os.ErrExist }}); !errors.Is(err, os.ErrExist) {
			t.Errorf("a state that cannot be taken: %v", err)
		}
		if err := os.Truncate(state.Devices, 1000); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := Start(ctx, q, cfg, hypervisor.Options{Thaw: &state}); err == nil || !strings.Contains(err.Error(), "thaw") && !strings.Contains(err.Error(), "QEMU") {
			t.Errorf("a state that is cut off: %v", err)
		}
	})
}

// A start that ends before the guest was resumed says so: nobody has written to the disk,
// and what was frozen is as it was.
func TestThawInterrupted(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	onEach(t, func(t *testing.T, q *QEMU) {
		cfg := fullConfig(t, guestPowerButton)
		dir := t.TempDir()
		state := hypervisor.State{Devices: filepath.Join(dir, "devices"), Memory: filepath.Join(dir, "memory")}
		memory, err := sparse.Create(state.Memory, cfg.Memory)
		if err != nil {
			t.Fatal(err)
		}
		defer memory.Close()
		vm := start(t, q, cfg, hypervisor.Options{})
		time.Sleep(settle())
		if err := errors.Join(vm.Freeze(t.Context(), state.Devices, memory), vm.Quit(t.Context())); err != nil {
			t.Fatal(err)
		}
		before := sumOf(t, state)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		for _, test := range []struct {
			name   string
			do     func()
			killed bool
		}{
			{"killed", func() { killQEMU(t, syscall.SIGKILL) }, true},
			{"ended", func() { killQEMU(t, syscall.SIGTERM) }, true},
			{"stopped", stop, false},
		} {
			_, err := Start(ctx, q, cfg, hypervisor.Options{Accel: os.Getenv("HYVE_TEST_ACCEL"), Thaw: &state,
				Take: func() (hypervisor.State, error) { test.do(); return state, nil }})
			if err == nil || errors.Is(err, hypervisor.ErrRan) || errors.Is(err, hypervisor.ErrKilled) != test.killed {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		if sumOf(t, state) != before {
			t.Error("what was frozen has changed")
		}
		start(t, q, cfg, hypervisor.Options{Thaw: &state})
	})
}

// killQEMU sends a signal to this process' children that are a QEMU. They may have the name
// of the loader that runs it.
func killQEMU(t *testing.T, signal syscall.Signal) {
	t.Helper()
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for _, pid := range strings.Fields(string(data)) {
			if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); strings.Contains(string(line), "\x00-nodefaults\x00") {
				var n int
				fmt.Sscan(pid, &n)
				syscall.Kill(n, signal)
			}
		}
	}
	time.Sleep(100 * time.Millisecond)
}

// settle is how long a guest of these tests takes to its first instruction, with some to
// spare: where KVM is tested it is on a processor that is itself emulated.
func settle() time.Duration {
	if os.Getenv("HYVE_TEST_ACCEL") != "" {
		return 5 * time.Second
	}
	return 200 * time.Millisecond
}

// A VM that goes on after a freeze has nothing of what was frozen open.
func TestFreezeGivesBack(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	onEach(t, func(t *testing.T, q *QEMU) {
		cfg := fullConfig(t, guestHang)
		vm := start(t, q, cfg, hypervisor.Options{})
		dir := t.TempDir()
		memory, err := sparse.Create(filepath.Join(dir, "memory"), cfg.Memory)
		if err != nil {
			t.Fatal(err)
		}
		defer memory.Close()
		if err := errors.Join(vm.Freeze(t.Context(), filepath.Join(dir, "devices"), memory), vm.Resume(t.Context())); err != nil {
			t.Fatal(err)
		}
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", vm.PID()))
		if err != nil || len(fds) == 0 {
			t.Fatal(fds, err)
		}
		for _, fd := range fds {
			if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, dir) {
				t.Errorf("it has %s open", target)
			}
		}
	})
}

func sumOf(t *testing.T, state hypervisor.State) (sums [2]uint32) {
	t.Helper()
	for i, path := range []string{state.Devices, state.Memory} {
		var err error
		if _, sums[i], err = sparse.Sum(path); err != nil {
			t.Fatal(err)
		}
	}
	return sums
}

// What may differ between freeze and thaw is in no shape, everything else is.
func TestShape(t *testing.T) {
	q := &QEMU{Path: "/usr/bin/qemu", Arch: "amd64", Version: Version{Major: 7, Minor: 2}, key: "binary"}
	cfg := fullConfig(t, guestHang)
	shape := q.Shape(cfg, accelTCG)
	other := fullConfig(t, guestHang)
	other.Name, other.Generation, other.Incoming = "other", "00000000-0000-0000-0000-000000000001", true
	if got := q.Shape(other, accelTCG); got != shape {
		t.Error("paths, name or generation are in the shape")
	}
	for name, change := range map[string]func(){
		"cpus":   func() { other.CPUs++ },
		"memory": func() { other.Memory += 1 << 20 },
		"disks":  func() { other.Disks = other.Disks[:1] },
		"serial": func() { other.Disks[0].Serial = "x" },
		"mac":    func() { other.Network.MAC = "52:54:00:00:00:01" },
		"port":   func() { other.Channels[0].Name = "x" },
	} {
		other = fullConfig(t, guestHang)
		change()
		if q.Shape(other, accelTCG) == shape {
			t.Errorf("%s are not in the shape", name)
		}
	}
	newer := *q
	newer.key = "another binary"
	if newer.Shape(cfg, accelTCG) == shape {
		t.Error("the binary is not in the shape")
	}
	// An emulated processor is the same everywhere.
	here, there := *q, *q
	here.processor, there.processor = "with AVX2", "without"
	if here.Shape(cfg, accelTCG) != there.Shape(cfg, accelTCG) {
		t.Error("the host's processor is in the shape of an emulated machine")
	}
	if here.Shape(cfg, accelKVM) == there.Shape(cfg, accelKVM) {
		t.Error("the host's processor is not in the shape of KVM's machines")
	}
}

// TestForState: a state goes on with what it was frozen with, or not at all.
func TestForState(t *testing.T) {
	const hidden = "nobody may read memory"
	tcg := hypervisor.Verdict{Name: accelTCG, Reason: "no KVM"}
	kvm := hypervisor.Verdict{Name: accelKVM, Capabilities: hypervisor.Capabilities{Processor: "with AVX2"}}
	for _, tt := range []struct {
		now        hypervisor.Verdict
		of         hypervisor.Origin
		runs, says string
	}{
		{tcg, hypervisor.Origin{Accelerator: "tcg"}, "tcg", ""},
		{tcg, hypervisor.Origin{}, "tcg", ""}, // as states were that do not say
		{tcg, hypervisor.Origin{Accelerator: "kvm", Processor: "with AVX2"}, "", "no KVM"},
		{kvm, hypervisor.Origin{Accelerator: "kvm"}, "kvm", ""}, // as well
		{kvm, hypervisor.Origin{Accelerator: "kvm", Processor: "with AVX2"}, "kvm", ""},
		{kvm, hypervisor.Origin{Accelerator: "kvm", Processor: "without\n"}, "", `of "without\n", and here is "with AVX2"`},
		{kvm, hypervisor.Origin{Accelerator: "hvf"}, "", "hvf"},
		{hypervisor.Verdict{Name: accelTCG, Capabilities: hypervisor.Capabilities{NoFreeze: hidden}}, hypervisor.Origin{Accelerator: "tcg"}, "", hidden},
		{hypervisor.Verdict{Name: accelKVM, Capabilities: hypervisor.Capabilities{NoFreeze: hidden}}, hypervisor.Origin{Accelerator: "kvm"}, "", hidden},
	} {
		got, err := (&QEMU{}).ForState(tt.now, tt.of)
		if err == nil && got.Name != tt.runs || err != nil && (tt.runs != "" || !strings.Contains(err.Error(), tt.says)) || (err == nil) != (tt.runs != "") {
			t.Errorf("%v for a state of %q: %v, %v", tt.now, tt.of, got, err)
		}
	}
	// One of emulation stays so where KVM works, and says why it is not faster.
	got, err := (&QEMU{}).ForState(kvm, hypervisor.Origin{Accelerator: "tcg"})
	if memoryHidden() == "" && (err != nil || got.Name != accelTCG || got.Reason == "") {
		t.Errorf("%v, %v", got, err)
	}
}
