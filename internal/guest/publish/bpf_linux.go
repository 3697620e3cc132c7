package publish

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An insn is one instruction of the kernel's virtual machine, struct bpf_insn of linux/bpf.h.
type insn struct {
	op   uint8
	regs uint8 // destination in the lower half, source in the upper
	off  int16
	imm  int32
}

// The few operations that hyve's programs consist of.
func load32(dst, src uint8, off int16) insn  { return insn{op: 0x61, regs: src<<4 | dst, off: off} }
func store32(dst, src uint8, off int16) insn { return insn{op: 0x63, regs: src<<4 | dst, off: off} }
func store64(dst, src uint8, off int16) insn { return insn{op: 0x7b, regs: src<<4 | dst, off: off} }
func zero32(dst uint8, off int16) insn       { return insn{op: 0x62, regs: dst, off: off} }
func move(dst, src uint8) insn               { return insn{op: 0xbf, regs: src<<4 | dst} }
func set(dst uint8, imm int32) insn          { return insn{op: 0xb7, regs: dst, imm: imm} }
func add(dst uint8, imm int32) insn          { return insn{op: 0x07, regs: dst, imm: imm} }
func call(helper int32) insn                 { return insn{op: 0x85, imm: helper} }
func exit() insn                             { return insn{op: 0x95} }

// Jumps over the next n instructions.
func ifZero(dst uint8, n int16) insn             { return insn{op: 0x15, regs: dst, off: n} }
func ifEqual(dst uint8, imm int32, n int16) insn { return insn{op: 0x16, regs: dst, imm: imm, off: n} }
func ifOther(dst uint8, imm int32, n int16) insn { return insn{op: 0x56, regs: dst, imm: imm, off: n} }
func ifDiffer(dst, src uint8, n int16) insn      { return insn{op: 0x5e, regs: src<<4 | dst, off: n} }
func ifDiffer64(dst, src uint8, n int16) insn    { return insn{op: 0x5d, regs: src<<4 | dst, off: n} }

// load64 is two instructions, and so is loadMap.
func load64(dst uint8, n uint64) []insn {
	return []insn{{op: 0x18, regs: dst, imm: int32(n)}, {imm: int32(n >> 32)}}
}

func loadMap(dst uint8, fd int) []insn {
	return []insn{{op: 0x18, regs: unix.BPF_PSEUDO_MAP_FD<<4 | dst, imm: int32(fd)}, {}}
}

// Helpers of the kernel, by their numbers.
const (
	helperLookup        = 1
	helperUpdate        = 2
	helperDelete        = 3
	helperSocketCookie  = 46
	helperSockOpsFlags  = 59
	helperNetworkCookie = 122
	helperRing          = 130
)

// A hook is where in a control group a program is attached, and what kind of program that is.
type hook struct{ program, attach uint32 }

// bpf is the system call.
func bpf(command uintptr, attr []byte) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// words are an attribute of bpf: 32-bit fields, of which 64-bit ones take two.
func words(fields ...uint32) []byte {
	b := make([]byte, 0, 4*len(fields))
	for _, f := range fields {
		b = binary.NativeEndian.AppendUint32(b, f)
	}
	return b
}

func pointer(attr []byte, at int, p unsafe.Pointer) {
	binary.NativeEndian.PutUint64(attr[at:], uint64(uintptr(p)))
}

// mapElement looks up or updates the value of a key in a map; both have the map's sizes.
func mapElement(command uintptr, in int, key, value []byte) error {
	// The kernel is told where they are by number, so they may not move.
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&key[0])
	pins.Pin(&value[0])
	attr := make([]byte, 32)
	copy(attr, words(uint32(in)))
	pointer(attr, 8, unsafe.Pointer(&key[0]))
	pointer(attr, 16, unsafe.Pointer(&value[0]))
	_, err := bpf(command, attr)
	return err
}

// newMap makes a map.
func newMap(kind, keySize, valueSize, entries uint32) (int, error) {
	fd, err := bpf(unix.BPF_MAP_CREATE, words(kind, keySize, valueSize, entries, 0))
	if err != nil {
		return -1, fmt.Errorf("making a map of the kernel: %w", err)
	}
	return fd, nil
}

// attachProgram runs a program for whatever is in a control group and below.
func attachProgram(group *os.File, h hook, program []insn) error {
	licence := []byte("Apache-2.0\x00")
	attr := make([]byte, 72)
	binary.NativeEndian.PutUint32(attr[0:], h.program)
	binary.NativeEndian.PutUint32(attr[4:], uint32(len(program)))
	pointer(attr, 8, unsafe.Pointer(&program[0]))
	pointer(attr, 16, unsafe.Pointer(&licence[0]))
	binary.NativeEndian.PutUint32(attr[68:], h.attach)
	fd, err := bpf(unix.BPF_PROG_LOAD, attr)
	runtime.KeepAlive(program)
	runtime.KeepAlive(licence)
	if err != nil {
		return fmt.Errorf("loading a program into the kernel: %w", err)
	}
	defer unix.Close(fd)
	if _, err := bpf(unix.BPF_PROG_ATTACH, words(uint32(group.Fd()), uint32(fd), h.attach, unix.BPF_F_ALLOW_MULTI)); err != nil {
		return fmt.Errorf("attaching a program to %s: %w", group.Name(), err)
	}
	return nil
}
