package qemu

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// Guests of a few bytes, in 32-bit code for a PC that SeaBIOS has set up.
var (
	// guestPowerButton waits for the power button, then switches off.
	guestPowerButton = []byte{
		0x66, 0xba, 0x02, 0x06, // mov dx, 0x602: PM1 enable
		0x66, 0xb8, 0x00, 0x01, // mov ax, 0x100: the power button
		0x66, 0xef, //             out dx, ax
		0x66, 0xba, 0x00, 0x06, // mov dx, 0x600: PM1 status
		0x66, 0xed, //             wait: in ax, dx
		0xf3, 0x90, //             pause
		0xf6, 0xc4, 0x01, //       test ah, 1
		0x74, 0xf7, //             jz wait
		0x66, 0xba, 0x04, 0x06, // mov dx, 0x604: PM1 control
		0x66, 0xb8, 0x00, 0x20, // mov ax, 0x2000: sleep, type 0 = off
		0x66, 0xef, //             out dx, ax
		0xf4, //                   hlt
	}
	// guestReset resets at once, as a panicked kernel does.
	guestReset = []byte{
		0x66, 0xba, 0xf9, 0x0c, // mov dx, 0xcf9
		0xb0, 0x06, //             mov al, 6
		0xee, //                   out dx, al
		0xf4, //                   hlt
	}
	// guestHang does nothing at all.
	guestHang = []byte{
		0xfa,       // cli
		0xf4,       // hlt
		0xeb, 0xfc, // jmp -4
	}
)

// piece of guest memory, at a physical address.
type piece struct {
	at   uint64
	data []byte
}

// writeKernel makes an ELF image that QEMU starts at the first piece through
// its PVH note, as it does a Linux vmlinux.
func writeKernel(t *testing.T, pieces ...piece) string {
	t.Helper()
	const headerSize, programSize = 64, 56
	type program struct {
		Type, Flags                uint32
		Offset, Virtual, Physical  uint64
		FileSize, MemorySize, Algn uint64
	}
	var note bytes.Buffer
	for _, v := range []any{uint32(4), uint32(8), uint32(18), [4]byte{'X', 'e', 'n'}, pieces[0].at} {
		_ = binary.Write(&note, binary.LittleEndian, v)
	}
	var headers, body bytes.Buffer
	offset := uint64(headerSize + programSize*(1+len(pieces)))
	_ = binary.Write(&headers, binary.LittleEndian, program{4, 4, offset, 0, 0, uint64(note.Len()), uint64(note.Len()), 4})
	body.Write(note.Bytes())
	for _, p := range pieces {
		at := offset + uint64(body.Len())
		size := uint64(len(p.data))
		_ = binary.Write(&headers, binary.LittleEndian, program{1, 7, at, p.at, p.at, size, size, 1})
		body.Write(p.data)
	}
	var file bytes.Buffer
	file.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), pieces[0].at, uint64(headerSize), uint64(0), uint32(0),
		uint16(headerSize), uint16(programSize), uint16(1 + len(pieces)), uint16(0), uint16(0), uint16(0),
	} {
		_ = binary.Write(&file, binary.LittleEndian, v)
	}
	file.Write(headers.Bytes())
	file.Write(body.Bytes())
	path := filepath.Join(t.TempDir(), "kernel, with a comma é")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
