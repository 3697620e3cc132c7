package build

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxKernel bounds a decompressed kernel, in bytes.
const maxKernel = 512 << 20

// bootKernel returns the form of a Debian kernel that hypervisors boot without
// a boot loader: on amd64 the ELF file inside the bzImage, which has to have a
// PVH entry, on arm64 the raw Image that Debian ships.
func bootKernel(arch string, vmlinuz []byte) ([]byte, error) {
	if arch == "arm64" {
		return arm64Image(vmlinuz)
	}
	payload, err := bzImagePayload(vmlinuz)
	if err != nil {
		return nil, err
	}
	vmlinux, err := expandKernel(payload)
	if err != nil {
		return nil, err
	}
	return vmlinux, checkPVH(vmlinux)
}

// arm64Image checks for the magic of an arm64 Image
// (Documentation/arch/arm64/booting.rst, 4).
func arm64Image(vmlinuz []byte) ([]byte, error) {
	const at, magic = 0x38, "ARMd"
	if len(vmlinuz) < 64 || string(vmlinuz[at:at+4]) != magic {
		return nil, errors.New("it is no uncompressed arm64 Image")
	}
	return vmlinuz, nil
}

// bzImagePayload returns the compressed kernel within a bzImage
// (Documentation/arch/x86/boot.rst, 1.1; payload fields since protocol 2.08).
func bzImagePayload(b []byte) ([]byte, error) {
	const header = 0x1f1
	if len(b) < 0x264 || string(b[0x202:0x206]) != "HdrS" {
		return nil, errors.New("it is no bzImage")
	}
	if v := binary.LittleEndian.Uint16(b[0x206:]); v < 0x0208 {
		return nil, fmt.Errorf("its boot protocol is %d.%02d, older than 2.08", v>>8, v&0xff)
	}
	setup := int64(b[header])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*512 + int64(binary.LittleEndian.Uint32(b[0x248:]))
	end := start + int64(binary.LittleEndian.Uint32(b[0x24c:]))
	if end > int64(len(b)) || end-start < 8 {
		return nil, errors.New("its payload is outside the file")
	}
	return b[start:end], nil
}

// expandKernel decompresses a bzImage's payload, which ends with the
// decompressed size in four bytes (gzip has that in its own format).
func expandKernel(payload []byte) ([]byte, error) {
	size := int64(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	if size > maxKernel {
		return nil, fmt.Errorf("it unpacks to %d bytes, at most %d", size, int64(maxKernel))
	}
	var r io.Reader
	switch name := compression(payload); name {
	case "zstd":
		d, err := zstd.NewReader(bytes.NewReader(payload[:len(payload)-4]), zstd.WithDecoderMaxMemory(maxKernel))
		if err != nil {
			return nil, fmt.Errorf("decompressing it: %w", err)
		}
		defer d.Close()
		r = d
	case "gzip":
		d, err := gzip.NewReader(bytes.NewReader(payload))
		if err != nil {
			return nil, fmt.Errorf("decompressing it: %w", err)
		}
		r = d
	case "none":
		return payload, nil
	default:
		return nil, fmt.Errorf("it is compressed with %s, which is not supported (zstd and gzip are)", name)
	}
	var out bytes.Buffer // size is not to be trusted with an allocation
	if _, err := io.Copy(&out, io.LimitReader(r, size+1)); err != nil {
		return nil, fmt.Errorf("decompressing it: %w", err)
	}
	if int64(out.Len()) != size {
		return nil, fmt.Errorf("it does not unpack to %d bytes", size)
	}
	return out.Bytes(), nil
}

// compression names a payload's format by its magic.
func compression(b []byte) string {
	for _, c := range []struct{ magic, name string }{
		{"\x28\xb5\x2f\xfd", "zstd"}, {"\x1f\x8b", "gzip"}, {"\xfd7zXZ\x00", "xz"}, {"BZh", "bzip2"},
		{"\x89LZO", "lzo"}, {"\x02\x21\x4c\x18", "lz4"}, {"\x5d\x00\x00", "lzma"}, {"\x7fELF", "none"},
	} {
		if bytes.HasPrefix(b, []byte(c.magic)) {
			return c.name
		}
	}
	return "an unknown format"
}

// checkPVH makes sure that a kernel can be entered without firmware: it needs
// the note XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h).
func checkPVH(vmlinux []byte) error {
	const phys32Entry = 18
	f, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil {
		return fmt.Errorf("reading the decompressed kernel: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > uint64(len(vmlinux)) {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err != nil {
			return fmt.Errorf("reading the kernel's notes: %w", err)
		}
		if hasNote(notes, f.ByteOrder, "Xen\x00", phys32Entry) {
			return nil
		}
	}
	return errors.New("it has no PVH entry (note XEN_ELFNOTE_PHYS32_ENTRY)")
}

// hasNote looks for a note of that owner and type.
func hasNote(b []byte, order binary.ByteOrder, owner string, typ uint32) bool {
	align := func(n uint64) uint64 { return (n + 3) &^ 3 }
	for len(b) >= 12 {
		nameSize, descSize := uint64(order.Uint32(b)), uint64(order.Uint32(b[4:]))
		if align(nameSize)+align(descSize) > uint64(len(b)-12) {
			return false
		}
		name := b[12 : 12+nameSize]
		if string(name) == owner && order.Uint32(b[8:]) == typ {
			return true
		}
		b = b[12+align(nameSize)+align(descSize):]
	}
	return false
}
