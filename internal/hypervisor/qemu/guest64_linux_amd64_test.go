package qemu

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

const (
	entryAt = 0x100000
	copyAt  = 0x120000 // the BIOS uses low memory until the guest starts
)

// guest64 makes a guest of 64-bit code that runs on the KVM test's page tables
// and segments. It starts at addrCode with the KVM test's registers.
func guest64(t *testing.T, code []byte) string {
	t.Helper()
	g := &guestCPU{memory: make([]byte, kvmMemory)}
	g.writeTables()
	copy(g.memory[addrCode:], code)
	const pointers = 0x6000 // GDTR, IDTR: limit and base
	binary.LittleEndian.PutUint16(g.memory[pointers:], 0x17)
	binary.LittleEndian.PutUint32(g.memory[pointers+2:], addrGDT)
	binary.LittleEndian.PutUint16(g.memory[pointers+8:], 16*(breakpoint+1)-1)
	binary.LittleEndian.PutUint32(g.memory[pointers+10:], addrIDT)

	var entry []byte
	emit := func(b ...byte) { entry = append(entry, b...) }
	emit32 := func(op []byte, v uint32) { entry = binary.LittleEndian.AppendUint32(append(entry, op...), v) }
	emit(0xfa)                                         // cli
	emit32([]byte{0xbe}, copyAt)                       // mov esi, copyAt
	emit32([]byte{0xbf}, addrPML4)                     // mov edi, addrPML4
	emit32([]byte{0xb9}, kvmMemory-addrPML4)           // mov ecx, …
	emit(0xf3, 0xa4)                                   // rep movsb
	emit32([]byte{0xb8}, addrPML4)                     // mov eax, addrPML4
	emit(0x0f, 0x22, 0xd8)                             // mov cr3, eax
	emit(0x0f, 0x20, 0xe0)                             // mov eax, cr4
	emit32([]byte{0x0d}, 1<<5|1<<9|1<<10|1<<18)        // or eax, PAE…OSXSAVE
	emit(0x0f, 0x22, 0xe0)                             // mov cr4, eax
	emit32([]byte{0xb9}, 0xc0000080)                   // mov ecx, EFER
	emit(0x0f, 0x32)                                   // rdmsr
	emit32([]byte{0x0d}, 1<<8)                         // or eax, LME
	emit(0x0f, 0x30)                                   // wrmsr
	emit(0x31, 0xc9, 0x31, 0xd2)                       // xor ecx, ecx; xor edx, edx
	emit32([]byte{0xb8}, 3)                            // mov eax, x87 and SSE
	emit(0x0f, 0x01, 0xd1)                             // xsetbv
	emit32([]byte{0x0f, 0x01, 0x15}, pointers)         // lgdt
	emit32([]byte{0x0f, 0x01, 0x1d}, pointers+8)       // lidt
	emit32([]byte{0xb8}, 1|1<<1|1<<4|1<<5|1<<16|1<<31) // mov eax, PE…PG
	emit(0x0f, 0x22, 0xc0)                             // mov cr0, eax
	after := uint32(entryAt + len(entry) + 7)
	emit32([]byte{0xea}, after) // jmp selCode:after
	emit(selCode, 0)
	emit(0x66, 0xb8, selData, 0)             // mov ax, selData
	emit(0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0) // mov ds/es/ss, ax
	emit32([]byte{0xb9}, kvmSpins)           // mov ecx, …
	emit32([]byte{0xbd}, kvmRounds)          // mov ebp, …
	emit32([]byte{0xbf}, addrData)           // mov edi, …
	emit32([]byte{0xbc}, addrStack)          // mov esp, …
	emit(0x45, 0x31, 0xc0)                   // xor r8d, r8d
	emit32([]byte{0xb8}, addrCode)           // mov eax, addrCode
	emit(0xff, 0xe0)                         // jmp rax
	return writeKernel(t, piece{entryAt, entry}, piece{copyAt, g.memory[addrPML4:]})
}

// verdictCode ends a guest: off if the flags say "equal", reset otherwise.
func verdictCode() []byte {
	off := guestPowerButton[len(guestPowerButton)-11:]
	code := append([]byte{0x75, byte(len(off))}, off...) // jne over it
	return append(code, guestReset...)
}

// TestTestCode proves that the KVM test's guest passes on a right processor, a
// conclusion that the KVM at hand may not allow.
func TestTestCode(t *testing.T) {
	onEach(t, func(t *testing.T, q *QEMU) {
		for _, has := range []abilities{ // xsaves is not emulated
			{},
			{popcnt: true, cx16: true, xsave: true},
		} {
			code := testCode(has)
			end := bytes.Index(code, []byte{0xe6, donePort, 0xf4})
			if end < 0 || len(code) > 0x210 {
				t.Fatalf("% x", code)
			}
			tail := []byte{0x49, 0x81, 0xe8}                         // sub r8, kvmRounds
			tail = binary.LittleEndian.AppendUint32(tail, kvmRounds) //
			tail = append(tail, 0x48, 0x81, 0x2f)                    // sub qword [rdi], kvmRounds
			tail = binary.LittleEndian.AppendUint32(tail, kvmRounds) //
			tail = append(tail, 0x4c, 0x0b, 0x07)                    // or r8, [rdi]
			tail = append(tail, 0x49, 0x83, 0xf8, 0x00)              // cmp r8, 0
			copy(code[end:], append(tail, verdictCode()...))
			cfg := fullConfig(t, nil)
			cfg.Kernel = guest64(t, code)
			vm := start(t, q, cfg, hypervisor.Options{})
			wait(t, vm)
			if s := vm.Shutdown(); s.Reason != ReasonGuestShutdown {
				t.Errorf("%+v: %+v, %v", has, s, vm.Err())
			}
		}
	})
}

// TestCX16 compares what Features believes of cmpxchg16b with what it does: it
// must leave the flags alone, of which the guest looks at those that nothing in
// it ever set.
func TestCX16(t *testing.T) {
	code := []byte{
		0x6a, 0x02, //                      push 2
		0x9d,       //                            popf: the flags are held as such
		0xeb, 0x00, //                      jmp +0: ends the translated block
		0x48, 0x31, 0xc0, //                xor rax, rax
		0x48, 0xff, 0xc8, //                dec rax
		0x48, 0x31, 0xdb, //                xor rbx, rbx
		0x48, 0x01, 0xd8, //                add rax, rbx
		0x48, 0x01, 0xc3, //                add rbx, rax: its operand is -1
		0xf0, 0x48, 0x0f, 0xc7, 0x0f, //    lock cmpxchg16b [rdi]
		0x9c,                               //                            pushf
		0x58,                               //                            pop rax
		0x48, 0x25, 0x00, 0xf7, 0xff, 0xff, // and rax, ~0x8ff: beyond the arithmetic flags
		0x48, 0x85, 0xc0, //                test rax, rax
	}
	onEach(t, func(t *testing.T, q *QEMU) {
		cfg := fullConfig(t, nil)
		cfg.Kernel = guest64(t, append(code, verdictCode()...))
		vm := start(t, q, cfg, hypervisor.Options{Accel: accelTCG})
		wait(t, vm)
		right := vm.Shutdown().Reason == ReasonGuestShutdown
		broken := q.Features(accelTCG).cx16Broken()
		t.Logf("right: %t, taken for broken: %t", right, broken)
		if right == broken {
			t.Errorf("cmpxchg16b is right: %t, taken for broken: %t (%+v)", right, broken, vm.Shutdown())
		}
	})
}
