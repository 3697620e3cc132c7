package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// headSize is how much of a disk's beginning says what is on it, in bytes.
const headSize = 1 << 20

// The labels under which a file system is taken for the machine's data.
const (
	dataLabel        = "hyve-data"
	boot2dockerLabel = "boot2docker-data"
)

// boot2dockerMagic at the start of a disk asked boot2docker to format it.
const boot2dockerMagic = "boot2docker, please format-me"

// An ext4 is what the superblock says of an ext2, ext3 or ext4 file system.
type ext4 struct {
	label     string
	blockSize int64 // bytes
	blocks    int64
	clean     bool // unmounted in order, or has a journal that makes it so
	errors    bool // the kernel found something wrong
}

// needsCheck says that mounting alone, which replays the journal, is not enough.
func (e ext4) needsCheck() bool { return e.errors || !e.clean }

// parseExt4 reads the superblock in the first bytes of a disk. The layout is
// that of struct ext4_super_block in Linux' fs/ext4/ext4.h.
func parseExt4(head []byte) (ext4, bool) {
	const offset, size = 1024, 1024
	if len(head) < offset+size {
		return ext4{}, false
	}
	sb := head[offset : offset+size]
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(sb[at:]) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(sb[at:]) }
	const (
		magic        = 0xef53
		stateClean   = 1
		stateErrors  = 2
		feature64Bit = 0x80 // incompatible
		maxLogBlock  = 6    // 64 KiB
	)
	if u16(0x38) != magic || u32(0x18) > maxLogBlock {
		return ext4{}, false
	}
	e := ext4{
		label:     string(bytes.TrimRight(sb[0x78:0x88], "\x00")),
		blockSize: 1024 << u32(0x18),
		blocks:    int64(u32(0x04)),
		errors:    u16(0x3a)&stateErrors != 0 || u32(0x194) != 0,
	}
	if u32(0x60)&feature64Bit != 0 {
		e.blocks |= int64(u32(0x150)&0x7fffffff) << 32
	}
	// With a journal the kernel leaves the clean bit set while mounted: it is
	// missing only where a check was asked for or broke off. Without one it is
	// missing after every crash.
	e.clean = u16(0x3a)&stateClean != 0
	return e, true
}

// signatures are what other contents of a disk begin with, to name them to the
// user whose disk it is.
var signatures = []struct {
	offset int
	bytes  string
	name   string
}{
	{0, "LUKS\xba\xbe", "a LUKS container"},
	{0, "XFSB", "an XFS file system"},
	{0x10040, "_BHRfS_M", "a btrfs file system"},
	{0, "QFI\xfb", "a qcow2 image"},
	{0, "hsqs", "a squashfs file system"},
	{1024, "\xe2\xe1\xf5\xe0", "an EROFS file system"},
	{4086, "SWAPSPACE2", "swap space"},
	{512, "LABELONE", "an LVM volume"},
	{32769, "CD001", "an ISO 9660 file system"},
	{512, "EFI PART", "a GPT partition table"},
	{54, "FAT", "a FAT file system"},
	{82, "FAT32", "a FAT file system"},
	{3, "NTFS", "an NTFS file system"},
	{510, "\x55\xaa", "an MBR partition table"},
	{257, "ustar", "a tar archive"},
}

// describeContent says what a disk that is neither blank nor ours holds.
func describeContent(head []byte) string {
	for _, s := range signatures {
		if end := s.offset + len(s.bytes); end <= len(head) && string(head[s.offset:end]) == s.bytes {
			return s.name
		}
	}
	for i, b := range head {
		if b != 0 {
			return fmt.Sprintf("unknown data, beginning at byte %d with %q", i, head[i:min(len(head), i+16)])
		}
	}
	return "data beyond its first megabyte"
}

// mayFormat says that a disk's beginning is all zeros, or asks to be formatted.
// The rest of the disk is the caller's to look at.
func mayFormat(head []byte) (blank, asked bool) {
	if bytes.HasPrefix(head, []byte(boot2dockerMagic)) {
		return false, true
	}
	return allZero(head), false
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	return len(strings.Trim(string(b), "\x00")) == 0
}
