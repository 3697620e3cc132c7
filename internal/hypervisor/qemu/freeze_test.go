package qemu

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A frozen guest goes on in another QEMU, where it was.
func TestFreezeAndThaw(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		cfg := fullConfig(t, guestPowerButton)
		frozen := start(t, q, cfg, Options{})
		path := filepath.Join(t.TempDir(), "state")
		state, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond) // to where it listens
		if err := frozen.Freeze(t.Context(), state); err != nil {
			t.Fatal(err)
		}
		state.Close()
		if err := frozen.Quit(t.Context()); err != nil {
			t.Fatal(err)
		}

		thaw := func(options Options) (*VM, error) {
			cfg := cfg
			cfg.Incoming, cfg.Generation = true, "00000000-9abc-def0-1234-56789abcdef0"
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			options.Thaw = file
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			return Start(ctx, q, cfg, options)
		}
		vm, err := thaw(Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { vm.Kill(); <-vm.Done() })
		if status, err := vm.Status(t.Context()); err != nil || status != "running" {
			t.Errorf("status %q, %v", status, err)
		}
		if err := vm.PowerButton(t.Context()); err != nil {
			t.Fatal(err)
		}
		wait(t, vm)
		if s := vm.Shutdown(); !s.Guest || s.Reason != ReasonGuestShutdown {
			t.Errorf("shutdown %+v", s)
		}

		if err := os.Truncate(path, 1000); err != nil {
			t.Fatal(err)
		}
		if _, err := thaw(Options{}); err == nil || !strings.Contains(err.Error(), "thaw") && !strings.Contains(err.Error(), "QEMU") {
			t.Errorf("a state that is cut off: %v", err)
		}
	})
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
}
