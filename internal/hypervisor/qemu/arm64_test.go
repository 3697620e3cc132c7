package qemu

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

// TestARM64 has an emulated arm64 board take every argument and switch itself
// off. It needs a qemu-system-aarch64, on PATH or in HYVE_TEST_QEMUS_ARM64, a
// list of paths.
func TestARM64(t *testing.T) {
	if testing.Short() {
		t.Skip("starts QEMU")
	}
	paths := filepath.SplitList(os.Getenv("HYVE_TEST_QEMUS_ARM64"))
	if len(paths) == 0 {
		path, err := locate("qemu-system-aarch64")
		if err != nil {
			t.Skip(err)
		}
		paths = []string{path}
	}
	for _, path := range paths {
		a, err := ask(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(a.Version.String(), func(t *testing.T) {
			if a.Arch != "arm64" {
				t.Fatalf("%s emulates %s", path, a.Arch)
			}
			cfg := fullConfig(t, nil)
			cfg.Kernel = filepath.Join(t.TempDir(), "Image")
			var code []byte
			for _, word := range []uint32{
				0x52800100, // mov w0, #8
				0x72b08000, // movk w0, #0x8400, lsl #16: PSCI's SYSTEM_OFF
				0xd4000002, // hvc #0
				0x14000000, // b .
			} {
				code = binary.LittleEndian.AppendUint32(code, word)
			}
			if err := os.WriteFile(cfg.Kernel, code, 0o600); err != nil {
				t.Fatal(err)
			}
			q := &QEMU{Path: path, Arch: a.Arch, Version: a.Version, Sandbox: a.Sandbox}
			vm := start(t, q, cfg, hypervisor.Options{})
			wait(t, vm)
			if s := vm.Shutdown(); vm.Err() != nil || s.Reason != ReasonGuestShutdown {
				t.Errorf("%+v, %v", s, vm.Err())
			}
		})
	}
}
