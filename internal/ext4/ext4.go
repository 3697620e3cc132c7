// Package ext4 reads superblocks of ext2, ext3 and ext4 file systems. The layout is that
// of struct ext4_super_block in Linux' fs/ext4/ext4.h.
package ext4

import (
	"bytes"
	"encoding/binary"
)

// The labels under which a file system is taken for a machine's data.
const (
	DataLabel        = "hyve-data"
	Boot2DockerLabel = "boot2docker-data"
)

// HeadSize is how much of a file system's beginning Parse needs, in bytes.
const HeadSize = offset + size

// The superblock's place, in bytes.
const offset, size = 1024, 1024

// A Superblock is what it says of a file system.
type Superblock struct {
	Label     string
	BlockSize int64 // bytes
	Blocks    int64
	Clean     bool // unmounted cleanly, or has a journal that makes it so
	Errors    bool // the kernel found something wrong
}

// NeedsCheck says that mounting alone, which replays the journal, is not enough.
func (s Superblock) NeedsCheck() bool { return s.Errors || !s.Clean }

// IsData says that the label is one under which a file system is taken for a machine's
// data.
func (s Superblock) IsData() bool { return s.Label == DataLabel || s.Label == Boot2DockerLabel }

// Parse reads the superblock in the first bytes of a file system.
func Parse(head []byte) (Superblock, bool) {
	if len(head) < HeadSize {
		return Superblock{}, false
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
		return Superblock{}, false
	}
	s := Superblock{
		Label:     string(bytes.TrimRight(sb[0x78:0x88], "\x00")),
		BlockSize: 1024 << u32(0x18),
		Blocks:    int64(u32(0x04)),
		Errors:    u16(0x3a)&stateErrors != 0 || u32(0x194) != 0,
	}
	if u32(0x60)&feature64Bit != 0 {
		s.Blocks |= int64(u32(0x150)&0x7fffffff) << 32
	}
	// With a journal the kernel leaves the clean bit set while mounted: it is
	// missing only where a check was asked for or broke off. Without one it is
	// missing after every crash.
	s.Clean = u16(0x3a)&stateClean != 0
	return s, true
}
