package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// An elfMachine is a kind of processor that programs are made for.
type elfMachine struct {
	platform string // docker's name, without "linux/"
	name     string // QEMU's
	number   uint16 // e_machine of ELF
	bits     int    // 32 or 64
	big      bool   // big-endian
}

// elfMachines are those that images are made for.
var elfMachines = []elfMachine{
	{"amd64", "x86_64", 62, 64, false},
	{"386", "i386", 3, 32, false},
	{"arm64", "aarch64", 183, 64, false},
	{"arm/v7", "arm", 40, 32, false},
	{"riscv64", "riscv64", 243, 64, false},
	{"ppc64le", "ppc64le", 21, 64, false},
	{"s390x", "s390x", 22, 64, true},
	{"loong64", "loongarch64", 258, 64, false},
	{"mips64le", "mips64el", 8, 64, false},
	{"mips64", "mips64", 8, 64, true},
	{"mipsle", "mipsel", 8, 32, false},
	{"mips", "mips", 8, 32, true},
	{"ppc64", "ppc64", 21, 64, true},
}

// nativePlatforms are what the kernel runs by itself. Whether that of an arm64 machine
// runs those of 32 bits is its processor's affair.
func nativePlatforms(arch string) []string {
	if arch == "arm64" {
		return []string{"arm64"}
	}
	return []string{"amd64", "386"}
}

// emulatedPlatforms are those for which the image has an emulator.
func emulatedPlatforms(arch string) []string {
	if arch == "arm64" {
		return []string{"amd64", "arm/v7"}
	}
	return []string{"arm64", "arm/v7"}
}

// foreignPath is what runs where a program is for a processor that nobody emulates. It
// is hyve-init, which knows it by this name.
const foreignPath = "/usr/lib/hyve/foreign"

// emulatorPath is QEMU for a machine.
func (m elfMachine) emulatorPath() string { return "/usr/bin/qemu-" + m.name }

// magic returns the first bytes of a program for the machine, and which of their bits
// count: not the ABI of the operating system, and neither whether it is an executable
// or one that can be loaded anywhere.
func (m elfMachine) magic() (magic, mask []byte) {
	var order binary.AppendByteOrder = binary.LittleEndian
	class, data := byte(1), byte(1)
	if m.big {
		order, data = binary.BigEndian, 2
	}
	if m.bits == 64 {
		class = 2
	}
	magic = append([]byte{0x7f, 'E', 'L', 'F', class, data, 1}, make([]byte, 9)...)
	magic = order.AppendUint16(order.AppendUint16(magic, 2), m.number)
	mask = append(bytes.Repeat([]byte{0xff}, 7), 0)
	mask = append(mask, bytes.Repeat([]byte{0xff}, 8)...)
	mask = order.AppendUint16(order.AppendUint16(mask, 0xfffe), 0xffff)
	return magic, mask
}

// registration is what the kernel's binfmt_misc is told so that the interpreter runs the
// machine's programs (Documentation/admin-guide/binfmt-misc.rst). Flag F has it opened now, so
// that containers need not have it.
func (m elfMachine) registration(name, interpreter, flags string) string {
	magic, mask := m.magic()
	escaped := func(b []byte) string {
		var s strings.Builder
		for _, c := range b {
			fmt.Fprintf(&s, `\x%02x`, c)
		}
		return s.String()
	}
	return fmt.Sprintf(":%s:M::%s:%s:%s:%s", name, escaped(magic), escaped(mask), interpreter, flags)
}

// describeForeign says why a program cannot be run and what can be done, given its first
// bytes, in one line.
func describeForeign(arch, path string, head []byte) string {
	what := "it is for another kind of processor"
	how := ""
	for _, m := range elfMachines {
		magic, mask := m.magic()
		if len(head) < len(magic) {
			break
		}
		same := true
		for i := range magic {
			same = same && (head[i]^magic[i])&mask[i] == 0
		}
		if same {
			what = "it is for linux/" + m.platform
			how = ", or docker run --privileged --rm tonistiigi/binfmt --install " + strings.ReplaceAll(m.platform, "/", "-") + " once"
		}
	}
	var can []string
	for _, p := range append(nativePlatforms(arch), emulatedPlatforms(arch)...) {
		can = append(can, "linux/"+p)
	}
	return fmt.Sprintf("exec %q: exec format error: %s; use an image for one of %s%s", path, what, strings.Join(can, ", "), how)
}
