package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// emulators are the QEMUs on which the tests run: the one on PATH, and those
// named in HYVE_TEST_QEMUS, a list of paths.
func emulators(t *testing.T) []*QEMU {
	t.Helper()
	if testing.Short() {
		t.Skip("starts QEMU")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the test guests are for PCs")
	}
	paths := append([]string{""}, filepath.SplitList(os.Getenv("HYVE_TEST_QEMUS"))...)
	var found []*QEMU
	for _, path := range paths {
		q, err := Find(t.Context(), path, "")
		if err != nil {
			if path == "" {
				continue
			}
			t.Fatal(err)
		}
		found = append(found, q)
	}
	if len(found) == 0 {
		t.Skip("no QEMU on PATH")
	}
	return found
}

// onEach runs a test on every emulator.
func onEach(t *testing.T, test func(t *testing.T, q *QEMU)) {
	for _, q := range emulators(t) {
		t.Run(q.Version.String(), func(t *testing.T) { test(t, q) })
	}
}

// fullConfig has one of everything, in a directory whose name needs quoting
// everywhere, with somebody at the other end of each socket.
func fullConfig(t *testing.T, code []byte) hypervisor.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", `q, "é"=`)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := func(name string, size int64) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return hypervisor.Config{
		Name:    "a, b",
		CPUs:    min(2, runtime.NumCPU()), // of more KVM's QEMU complains
		Memory:  128 << 20,
		Kernel:  writeKernel(t, piece{0x100000, code}),
		Initrd:  file("initrd,é", 4096),
		Cmdline: `quiet x="a, b"`,
		Disks: []hypervisor.Disk{
			{Serial: "hyve-root", Path: file("root,=.img", 1<<20), ReadOnly: true},
			{Serial: "hyve-data", Path: file("data {}.img", 1<<20)},
		},
		Channels: []hypervisor.Channel{
			{Name: "hyve.control", Socket: listen(t, filepath.Join(dir, "control, 1"))},
			{Name: "hyve.other", Socket: listen(t, filepath.Join(dir, "other=2"))},
		},
		Network:    hypervisor.Network{Socket: listen(t, filepath.Join(dir, "net, é")), MAC: "52:54:00:12:34:56", MTU: 16384},
		Console:    true,
		Generation: "12345678-9abc-def0-1234-56789abcdef0",
	}
}

// listen accepts whoever comes and reads what they send.
func listen(t *testing.T, path string) string {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, conn); conn.Close() }()
		}
	}()
	return path
}

// start starts a VM, with the accelerator that HYVE_TEST_ACCEL names.
func start(t *testing.T, q *QEMU, cfg hypervisor.Config, o hypervisor.Options) *VM {
	t.Helper()
	if o.Accel == "" {
		o.Accel = os.Getenv("HYVE_TEST_ACCEL")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	began := time.Now()
	vm, err := Start(ctx, q, cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %s", time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() { _ = vm.Kill(); <-vm.Done() })
	return vm
}

func wait(t *testing.T, vm *VM) {
	t.Helper()
	select {
	case <-vm.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("QEMU did not end within 20 s")
	}
}

// press presses the power button. The guest may act on it, or not.
func press(t *testing.T, vm *VM) error {
	return vm.Monitor().Execute(t.Context(), "system_powerdown", nil, nil)
}

// pressUntilOff presses it until the guest has acted: a press before it listens is lost.
func pressUntilOff(t *testing.T, vm *VM) {
	t.Helper()
	for {
		if err := press(t, vm); err != nil && !errors.Is(err, ErrMonitorClosed) {
			t.Fatal(err)
		}
		select {
		case <-vm.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// TestPowerButton proves that QEMU takes every argument, and that a guest can
// be asked to switch itself off.
func TestPowerButton(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		vm := start(t, q, fullConfig(t, guestPowerButton), hypervisor.Options{})
		if status, err := vm.Status(t.Context()); err != nil || status != "running" {
			t.Errorf("status %q, %v", status, err)
		}
		pressUntilOff(t, vm)
		if err := vm.Err(); err != nil {
			t.Error(err)
		}
		if s := vm.Shutdown(); !s.Guest || s.Reason != ReasonGuestShutdown {
			t.Errorf("shutdown %+v", s)
		}
		seen := map[string]bool{}
		for e := range vm.Events() {
			seen[e.Name] = true
		}
		if !seen["POWERDOWN"] || !seen[EventShutdown] {
			t.Errorf("events %v", seen)
		}
	})
}

func TestGuestReset(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		vm := start(t, q, fullConfig(t, guestReset), hypervisor.Options{})
		wait(t, vm)
		if err, s := vm.Err(), vm.Shutdown(); err != nil || !s.Guest || s.Reason != ReasonGuestReset {
			t.Errorf("%v, shutdown %+v", err, s)
		}
	})
}

func TestQuit(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		vm := start(t, q, fullConfig(t, guestHang), hypervisor.Options{})
		if pgid, err := syscall.Getpgid(vm.PID()); err != nil || pgid != vm.PID() {
			t.Errorf("process group %d of process %d, %v", pgid, vm.PID(), err)
		}
		if err := vm.Pause(t.Context()); err != nil {
			t.Error(err)
		}
		if status, err := vm.Status(t.Context()); err != nil || status != "paused" {
			t.Errorf("status %q, %v", status, err)
		}
		if err := vm.Resume(t.Context()); err != nil {
			t.Error(err)
		}
		if err := vm.Quit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err, s := vm.Err(), vm.Shutdown(); err != nil || s.Reason != ReasonHostQuit {
			t.Errorf("%v, shutdown %+v", err, s)
		}
		if err := press(t, vm); !errors.Is(err, ErrMonitorClosed) {
			t.Errorf("a press after the end: %v", err)
		}
		if err := vm.Kill(); err != nil {
			t.Errorf("a kill after the end: %v", err)
		}
	})
}

func TestKilled(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		vm := start(t, q, fullConfig(t, guestHang), hypervisor.Options{})
		if err := syscall.Kill(vm.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		wait(t, vm)
		if err := vm.Err(); err == nil || !strings.Contains(err.Error(), "killed") || hint.Of(err) == "" {
			t.Errorf("%v", err)
		}
		ours := start(t, q, fullConfig(t, guestHang), hypervisor.Options{})
		if err := ours.Kill(); err != nil {
			t.Fatal(err)
		}
		wait(t, ours)
		if err := ours.Err(); err != nil {
			t.Errorf("after Kill: %v", err)
		}
	})
}

// TestLockLivesWithVM: a file locked by the supervisor and passed on stays
// locked while QEMU lives, also without the supervisor.
func TestLockLivesWithVM(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		path := filepath.Join(t.TempDir(), "lock")
		held, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			t.Fatal(err)
		}
		vm := start(t, q, fullConfig(t, guestHang), hypervisor.Options{ExtraFiles: []*os.File{held}})
		held.Close()
		other, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := syscall.Flock(int(other.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			t.Error("the lock is free while the VM lives")
		}
		if err := vm.Kill(); err != nil {
			t.Fatal(err)
		}
		wait(t, vm)
		if err := syscall.Flock(int(other.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			t.Errorf("the lock is held after the VM has ended: %v", err)
		}
	})
}

// TestMonitorLost: QEMU goes on without its monitor, and its end is still seen.
func TestMonitorLost(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		vm := start(t, q, fullConfig(t, guestHang), hypervisor.Options{})
		vm.Monitor().Close()
		if err := press(t, vm); !errors.Is(err, ErrMonitorClosed) {
			t.Errorf("%v", err)
		}
		select {
		case <-vm.Done():
			t.Errorf("QEMU ended with its monitor: %v", vm.Err())
		case <-time.After(100 * time.Millisecond):
		}
		if err := syscall.Kill(vm.PID(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		wait(t, vm)
		if err := vm.Err(); err == nil || !strings.Contains(err.Error(), "terminating on signal 15") {
			t.Errorf("%v", err)
		}
	})
}

// TestNothingListens: neither QEMU nor its monitor can be reached by others.
func TestNothingListens(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	onEach(t, func(t *testing.T, q *QEMU) {
		vm := start(t, q, fullConfig(t, guestHang), hypervisor.Options{})
		inodes := map[string]bool{}
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", vm.PID()))
		if err != nil || len(fds) == 0 {
			t.Fatal(fds, err)
		}
		for _, fd := range fds {
			if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, "socket:[") {
				inodes[strings.Trim(target, "socket:[]")] = true
			}
		}
		if len(inodes) < 4 { // monitor, two channels, network
			t.Errorf("sockets %v", inodes)
		}
		table, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			t.Fatal(err)
		}
		const acceptsConnections = "00010000"
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 6 && inodes[f[6]] && f[3] == acceptsConnections {
				t.Errorf("QEMU listens: %s", line)
			}
		}
		for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
			table, err := os.ReadFile("/proc/net/" + name)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(table)) {
				if f := strings.Fields(line); len(f) > 9 && inodes[f[9]] {
					t.Errorf("QEMU has a %s socket: %s", name, line)
				}
			}
		}
	})
}
