package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/hyve-vm/hyve/internal/hypervisor/qemu"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
)

// floor measures the bare boot.
func (b *bench) floor() error {
	img, q, accel, err := b.parts()
	if err != nil {
		return err
	}
	initrd := filepath.Join(b.work, "floor.cpio")
	if err := os.WriteFile(initrd, archive("init", powerOff()), 0o600); err != nil {
		return err
	}
	cpu := "host"
	if accel == "tcg" {
		cpu, accel = "max,-cx16", "tcg,thread=multi"
	}
	return b.timed("floor", func() error {
		out, err := exec.Command(q.Path, "-accel", accel, "-machine", "q35", "-cpu", cpu, "-smp", "2", "-m", "2048",
			"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
			"-kernel", img.KernelOriginal(), "-initrd", initrd, "-append", "quiet panic=-1").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// parts returns what all VMs of the run have in common.
func (b *bench) parts() (img *image.Image, q *qemu.QEMU, accel string, err error) {
	store, err := image.Open(b.home.ImagesDir())
	if err != nil {
		return nil, nil, "", err
	}
	if img, err = build.Find(store, runtime.GOARCH, b.engine); err != nil {
		return nil, nil, "", err
	}
	if q, err = qemu.Find(context.Background(), "", b.home.CacheDir()); err != nil {
		return nil, nil, "", err
	}
	return img, q, q.Accelerator(context.Background()).Name, nil
}

// powerOff is an amd64 ELF program of one system call,
// reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF).
func powerOff() []byte {
	const base, headers = 0x400000, 64 + 56
	code := []byte{
		0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, 0xfee1dead
		0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, 0x28121969
		0xba, 0xdc, 0xfe, 0x21, 0x43, // mov edx, 0x4321fedc
		0xb8, 0xa9, 0x00, 0x00, 0x00, // mov eax, 169
		0x0f, 0x05, // syscall
	}
	size := uint64(headers + len(code))
	var out bytes.Buffer
	out.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	for _, field := range []any{
		uint16(2), uint16(62), uint32(1), uint64(base + headers), uint64(64), uint64(0), // executable, x86-64, entry, program header
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(4096), // load it all, r-x
	} {
		binary.Write(&out, binary.LittleEndian, field)
	}
	out.Write(code)
	return out.Bytes()
}

// archive is a cpio archive (newc) of one executable.
func archive(name string, data []byte) []byte {
	var out bytes.Buffer
	entry := func(name string, mode, links int, data []byte) {
		fmt.Fprintf(&out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			1, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		out.WriteString(name + "\x00")
		pad(&out)
		out.Write(data)
		pad(&out)
	}
	entry(name, 0o100755, 1, data)
	entry("TRAILER!!!", 0, 1, nil)
	return out.Bytes()
}

func pad(out *bytes.Buffer) {
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
}
