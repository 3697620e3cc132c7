package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of the x86 half of linux/kvm.h.
const (
	kvmGetSupportedCPUID = 0xc008ae05
	kvmGetMSRs           = 0xc008ae88
	kvmGetRegs           = 0x8090ae81
	kvmSetRegs           = 0x4090ae82
	kvmGetSregs          = 0x8138ae83
	kvmSetSregs          = 0x4138ae84
	kvmSetCPUID2         = 0x4008ae90
	kvmSetXCRS           = 0x4188aea7
)

const (
	guestBase = 0
	guestDone = kvmExitIO // the guest ends with an OUT
	donePort  = 0xf4

	// The guest's memory, mapped one to one by a single 2 MiB page.
	addrPML4  = 0x1000
	addrPDPT  = 0x2000
	addrPD    = 0x3000
	addrGDT   = 0x4000
	addrIDT   = 0x5000
	addrCode  = 0x8000
	addrData  = 0x9000 // a counter of 16 bytes; at +0x40 an XSAVE area
	addrStack = 0xf000

	selCode, selData = 0x08, 0x10

	kvmRounds = 1000 // iterations of the loop with the kernel's instructions

	breakpoint = 3 // the vector of INT3
)

// kvmRegs is struct kvm_regs.
type kvmRegs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

// kvmSegment is struct kvm_segment.
type kvmSegment struct {
	Base                               uint64
	Limit                              uint32
	Selector                           uint16
	Type, Present, DPL, DB, S, L, G, _ uint8
	Unusable, _                        uint8
}

// kvmTable is struct kvm_dtable.
type kvmTable struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// kvmSregs is struct kvm_sregs.
type kvmSregs struct {
	CS, DS, ES, FS, GS, SS, TR, LDT kvmSegment
	GDT, IDT                        kvmTable
	CR0, CR2, CR3, CR4, CR8         uint64
	EFER, APICBase                  uint64
	Interrupts                      [4]uint64
}

// kvmCPUID is struct kvm_cpuid2 with room for the entries.
type kvmCPUID struct {
	N, _    uint32
	Entries [256]struct {
		Function, Index, Flags uint32
		EAX, EBX, ECX, EDX     uint32
		_                      [3]uint32
	}
}

// kvmXCRS is struct kvm_xcrs.
type kvmXCRS struct {
	N, Flags uint32
	XCR      [16]struct {
		Number, _ uint32
		Value     uint64
	}
	_ [16]uint64
}

func vmType(int) uintptr { return 0 }

// abilities are those of the processor's that a kernel would use.
type abilities struct{ cx16, popcnt, xsave, xsaves bool }

// prepare puts the vCPU into 64-bit kernel mode before the test's code.
func (g *guestCPU) prepare(kvm int) error {
	id, err := supportedCPUID(kvm)
	if err != nil {
		return fmt.Errorf("KVM_GET_SUPPORTED_CPUID: %w", err)
	}
	var has abilities
	for _, e := range id.Entries[:id.N] {
		switch {
		case e.Function == 1:
			has.cx16, has.popcnt, has.xsave = e.ECX&(1<<13) != 0, e.ECX&(1<<23) != 0, e.ECX&(1<<26) != 0
		case e.Function == 0xd && e.Index == 1:
			has.xsaves = e.EAX&(1<<3) != 0
		}
	}
	if _, err := ioctlPtr(g.cpu, kvmSetCPUID2, unsafe.Pointer(id)); err != nil {
		return fmt.Errorf("KVM_SET_CPUID2: %w", err)
	}
	g.writeTables()
	copy(g.memory[addrCode:], testCode(has))
	if err := g.setSystemRegisters(has); err != nil {
		return err
	}
	regs := kvmRegs{RIP: addrCode, RFLAGS: 2, RSP: addrStack, RCX: g.spins, RBP: kvmRounds, RDI: addrData}
	if _, err := ioctlPtr(g.cpu, kvmSetRegs, unsafe.Pointer(&regs)); err != nil {
		return fmt.Errorf("KVM_SET_REGS: %w", err)
	}
	return nil
}

// writeTables makes page tables, segments and the breakpoint's gate.
func (g *guestCPU) writeTables() {
	put := func(at int, v uint64) { binary.LittleEndian.PutUint64(g.memory[at:], v) }
	const presentWritable, large = 3, 1 << 7
	put(addrPML4, addrPDPT|presentWritable)
	put(addrPDPT, addrPD|presentWritable)
	put(addrPD, presentWritable|large)
	put(addrGDT+selCode, 0x00af9b000000ffff) // 64-bit code, ring 0
	put(addrGDT+selData, 0x00cf93000000ffff)
	const interruptGate = 0x8e << 40
	put(addrIDT+16*breakpoint, handlerAt&0xffff|selCode<<16|interruptGate|handlerAt>>16<<48)
}

func (g *guestCPU) setSystemRegisters(has abilities) error {
	var s kvmSregs
	if _, err := ioctlPtr(g.cpu, kvmGetSregs, unsafe.Pointer(&s)); err != nil {
		return fmt.Errorf("KVM_GET_SREGS: %w", err)
	}
	s.CS = kvmSegment{Limit: 0xffffffff, Selector: selCode, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data := kvmSegment{Limit: 0xffffffff, Selector: selData, Type: 3, Present: 1, DB: 1, S: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.GDT = kvmTable{Base: addrGDT, Limit: 0x17}
	s.IDT = kvmTable{Base: addrIDT, Limit: 16*(breakpoint+1) - 1}
	s.CR3 = addrPML4
	s.CR0 = 1 | 1<<1 | 1<<4 | 1<<5 | 1<<16 | 1<<31 // PE, MP, ET, NE, WP, PG
	s.CR4 = 1<<5 | 1<<9 | 1<<10                    // PAE, OSFXSR, OSXMMEXCPT
	if has.xsave {
		s.CR4 |= 1 << 18 // OSXSAVE
	}
	s.EFER = 1<<8 | 1<<10 // LME, LMA
	if _, err := ioctlPtr(g.cpu, kvmSetSregs, unsafe.Pointer(&s)); err != nil {
		return fmt.Errorf("KVM_SET_SREGS: %w", err)
	}
	if !has.xsave {
		return nil
	}
	x := kvmXCRS{N: 1}
	x.XCR[0].Value = 3 // x87 and SSE state
	if _, err := ioctlPtr(g.cpu, kvmSetXCRS, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("KVM_SET_XCRS: %w", err)
	}
	return nil
}

// handlerAt is where testCode puts the breakpoint's handler.
const handlerAt = addrCode + 0x200

// testCode is the guest. RCX holds kvmSpins, RBP kvmRounds, RDI addrData.
func testCode(has abilities) []byte {
	code := []byte{
		// The plain loop.
		0x48, 0xff, 0xc9, // spin: dec rcx
		0x75, 0xfb, //       jnz spin
	}
	round := len(code)
	if has.popcnt {
		code = append(code, 0xf3, 0x48, 0x0f, 0xb8, 0xc5) // round: popcnt rax, rbp
		code = append(code, 0x48, 0x01, 0xc6)             // add rsi, rax
	}
	code = append(code,
		0x48, 0x8b, 0x07, //       mov rax, [rdi]
		0x48, 0x8b, 0x57, 0x08, // mov rdx, [rdi+8]
		0x48, 0x89, 0xc3, //       mov rbx, rax
		0x48, 0xff, 0xc3, //       inc rbx
		0x48, 0x89, 0xd1, //       mov rcx, rdx
	)
	if has.cx16 {
		code = append(code, 0xf0, 0x48, 0x0f, 0xc7, 0x0f) // lock cmpxchg16b [rdi]
	} else {
		code = append(code, 0xf0, 0x48, 0x0f, 0xb1, 0x1f) // lock cmpxchg [rdi], rbx
	}
	code = append(code,
		0x74, 0x01, //       je +1
		0xf4, //       hlt: nobody else could have changed it
		0xcc, //       int3, as the kernel's self-test does
	)
	code = append(code, xsaveCode(has)...)
	code = append(code, 0x48, 0xff, 0xcd) // dec rbp
	back := round - (len(code) + 6)
	code = append(code, 0x0f, 0x85)                                    // jnz round
	code = binary.LittleEndian.AppendUint32(code, uint32(int32(back))) //
	code = append(code, 0xe6, donePort, 0xf4)                          // out donePort, al; hlt
	code = append(code, slices.Repeat([]byte{0xf4}, handlerAt-addrCode-len(code))...)
	return append(code,
		0x49, 0xff, 0xc0, // inc r8
		0x48, 0xcf, //       iretq
	)
}

// xsaveCode saves and restores the floating-point state as a context switch
// does.
func xsaveCode(has abilities) []byte {
	mask := []byte{
		0xb8, 3, 0, 0, 0, // mov eax, 3
		0x31, 0xd2, //       xor edx, edx
	}
	switch {
	case has.xsave && has.xsaves:
		return append(mask,
			0x48, 0x0f, 0xc7, 0x6f, 0x40, // xsaves64 [rdi+0x40]
			0x48, 0x0f, 0xc7, 0x5f, 0x40, // xrstors64 [rdi+0x40]
		)
	case has.xsave:
		return append(mask,
			0x48, 0x0f, 0xae, 0x67, 0x40, // xsave64 [rdi+0x40]
			0x48, 0x0f, 0xae, 0x6f, 0x40, // xrstor64 [rdi+0x40]
		)
	}
	return nil
}

func (g *guestCPU) registers() (kvmRegs, error) {
	var r kvmRegs
	_, err := ioctlPtr(g.cpu, kvmGetRegs, unsafe.Pointer(&r))
	return r, err
}

// check says whether the guest did what it was to do.
func (g *guestCPU) check() error {
	r, err := g.registers()
	if err != nil {
		return fmt.Errorf("KVM_GET_REGS: %w", err)
	}
	counted := binary.LittleEndian.Uint64(g.memory[addrData:])
	switch {
	case binary.LittleEndian.Uint16(g.run[runUnion+2:]) != donePort:
		return errors.New("it wrote to an unknown port")
	case counted != kvmRounds || r.R8 != kvmRounds:
		return fmt.Errorf("of %d rounds it counted %d and %d", kvmRounds, counted, r.R8)
	}
	return nil
}

// spinsLeft is how far the plain loop came.
func (g *guestCPU) spinsLeft() (uint64, error) {
	r, err := g.registers()
	if err == nil && r.RBP != kvmRounds {
		return 0, unix.ERANGE
	}
	return r.RCX, err
}

// where names the place at which the guest stopped.
func (g *guestCPU) where() string {
	r, err := g.registers()
	if err != nil || r.RIP < addrCode || r.RIP >= handlerAt+16 {
		return ""
	}
	return fmt.Sprintf(" at instruction % x", g.memory[r.RIP:r.RIP+5])
}
