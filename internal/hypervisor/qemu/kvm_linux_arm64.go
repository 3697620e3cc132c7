package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"
)

// This file was written from the kernel's documentation and compiles; no arm64
// host with KVM was at hand to run it.

// Requests of the arm64 half of linux/kvm.h.
const (
	kvmARMVCPUInit        = 0x4020aeae
	kvmARMPreferredTarget = 0x8020aeaf
	kvmGetOneReg          = 0x4010aeab
	kvmSetOneReg          = 0x4010aeac

	kvmCapARMVMIPASize = 165
)

const (
	guestBase = 0x4000_0000  // as on QEMU's board
	guestDone = kvmExitMMIO  // the guest ends with a store where nothing is
	doneAddr  = 0x1000_0000  //
	regX0     = 0            // offsets in struct kvm_regs, in 32-bit words
	regX2     = 2 * 2        //
	regPC     = 32 * 2       // after 31 registers and the stack pointer
	coreReg   = 0x6030 << 48 // arm64, 64 bits,
	coreGroup = 0x0010 << 16 // KVM_REG_ARM_CORE
	kvmRounds = 1000         // iterations of the second loop
)

// vmType is the width of physical addresses: 40 bits by default, which some
// processors (Apple's) do not have.
func vmType(kvm int) uintptr {
	bits, err := ioctl(kvm, kvmCheckExtension, kvmCapARMVMIPASize)
	if err != nil || bits <= 0 || bits >= 40 {
		return 0
	}
	return uintptr(bits)
}

// prepare puts the vCPU into EL1, MMU off, before the test's code.
func (g *guestCPU) prepare(int) error {
	var target struct {
		Target   uint32
		Features [7]uint32
	}
	if _, err := ioctlPtr(g.vm, kvmARMPreferredTarget, unsafe.Pointer(&target)); err != nil {
		return fmt.Errorf("KVM_ARM_PREFERRED_TARGET: %w", err)
	}
	if _, err := ioctlPtr(g.cpu, kvmARMVCPUInit, unsafe.Pointer(&target)); err != nil {
		return fmt.Errorf("KVM_ARM_VCPU_INIT: %w", err)
	}
	for i, word := range testCode() {
		binary.LittleEndian.PutUint32(g.memory[4*i:], word)
	}
	for reg, value := range map[uint64]uint64{regPC: guestBase, regX0: g.spins, regX2: kvmRounds} {
		if err := g.oneReg(kvmSetOneReg, reg, &value); err != nil {
			return fmt.Errorf("KVM_SET_ONE_REG: %w", err)
		}
	}
	return nil
}

// testCode is the guest. X0 holds kvmSpins, X2 kvmRounds.
func testCode() []uint32 {
	return []uint32{
		0xf1000400, // spin:  subs x0, x0, #1
		0x54ffffe1, //        b.ne spin
		0xd5380003, // round: mrs x3, midr_el1
		0xd508871f, //        tlbi vmalle1
		0xd5033f9f, //        dsb sy
		0xd5033fdf, //        isb
		0xf1000442, //        subs x2, x2, #1
		0x54ffff61, //        b.ne round
		0xd2a20001, //        mov x1, #doneAddr
		0xb9000022, //        str w2, [x1]
		0x14000000, //        b .
	}
}

func (g *guestCPU) oneReg(request uintptr, reg uint64, value *uint64) error {
	arg := struct {
		id   uint64
		addr *uint64
	}{coreReg | coreGroup | reg, value}
	_, err := ioctlPtr(g.cpu, request, unsafe.Pointer(&arg))
	return err
}

// check says whether the guest did what it was to do.
func (g *guestCPU) check() error {
	if at := binary.LittleEndian.Uint64(g.run[runUnion:]); at != doneAddr {
		return fmt.Errorf("it went to address %#x", at)
	}
	if left := binary.LittleEndian.Uint32(g.run[runUnion+8:]); left != 0 {
		return errors.New("it lost count")
	}
	return nil
}

// spinsLeft is how far the plain loop came.
func (g *guestCPU) spinsLeft() (uint64, error) {
	var left uint64
	err := g.oneReg(kvmGetOneReg, regX0, &left)
	return left, err
}

// where names the place at which the guest stopped.
func (g *guestCPU) where() string {
	var pc uint64
	if g.oneReg(kvmGetOneReg, regPC, &pc) != nil {
		return ""
	}
	return fmt.Sprintf(" at address %#x", pc)
}
