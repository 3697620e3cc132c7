package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/hyve-vm/hyve/internal/ext4"
)

// A Part is a range of a disk, in bytes.
type Part struct{ Start, Size int64 }

// sector is the unit of partition tables, in bytes.
const sector = 512

// ErrNoData says that a disk has no file system with a machine's data.
var ErrNoData = errors.New("there is no ext4 file system with the label " + ext4.Boot2DockerLabel)

// FindData finds the ext4 file system with a machine's data on a raw disk of that size:
// the whole disk, or a partition of an MBR or a GPT under the label of boot2docker's or
// hyve's. The error wraps ErrNoData if there is none.
func FindData(disk io.ReaderAt, size int64) (Part, error) {
	whole := Part{0, size}
	if _, ok, err := superblock(disk, whole); err != nil || ok {
		return whole, errors.Join(err, fits(disk, whole, ok))
	}
	parts, err := partitions(disk, size)
	if err != nil {
		return Part{}, err
	}
	for _, part := range parts {
		fs, ok, err := superblock(disk, part)
		if err != nil {
			return Part{}, err
		}
		if ok && fs.IsData() {
			return part, fits(disk, part, ok)
		}
	}
	return Part{}, ErrNoData
}

func superblock(disk io.ReaderAt, part Part) (ext4.Superblock, bool, error) {
	head := make([]byte, ext4.HeadSize)
	if part.Size < int64(len(head)) {
		return ext4.Superblock{}, false, nil
	}
	if _, err := disk.ReadAt(head, part.Start); err != nil && !errors.Is(err, io.EOF) {
		return ext4.Superblock{}, false, err
	}
	fs, ok := ext4.Parse(head)
	return fs, ok, nil
}

// fits returns an error if there is a file system that is larger than its part.
func fits(disk io.ReaderAt, part Part, there bool) error {
	fs, _, err := superblock(disk, part)
	if err != nil || !there {
		return err
	}
	if fs.Blocks <= 0 || fs.Blocks > part.Size/fs.BlockSize {
		return fmt.Errorf("the file system of %d blocks does not fit its partition of %d bytes: the disk is cut short", fs.Blocks, part.Size)
	}
	return nil
}

// partitions returns those of a disk's GPT or else MBR that lie within it.
func partitions(disk io.ReaderAt, size int64) ([]Part, error) {
	first := make([]byte, 2*sector)
	if size < int64(len(first)) {
		return nil, nil
	}
	if _, err := disk.ReadAt(first, 0); err != nil {
		return nil, err
	}
	if header := first[sector:]; bytes.HasPrefix(header, []byte("EFI PART")) {
		return gpt(disk, header, size)
	}
	if first[510] != 0x55 || first[511] != 0xaa {
		return nil, nil
	}
	var parts []Part
	for at := 446; at < 510; at += 16 {
		start := int64(binary.LittleEndian.Uint32(first[at+8:]))
		count := int64(binary.LittleEndian.Uint32(first[at+12:]))
		parts = appendPart(parts, start, count, size)
	}
	return parts, nil
}

// gpt reads a GUID partition table as the UEFI specification has it, chapter 5.3.
func gpt(disk io.ReaderAt, header []byte, size int64) ([]Part, error) {
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(header[at:]) }
	length, array := u32(12), binary.LittleEndian.Uint64(header[72:])
	number, each := u32(80), u32(84)
	if length < 92 || length > sector || number < 1 || number > 1024 || each < 128 || each > 4096 || array > uint64(size/sector) {
		return nil, errors.New("its partition table is damaged")
	}
	sum := bytes.Clone(header[:length])
	clear(sum[16:20])
	entries := make([]byte, number*each)
	if _, err := disk.ReadAt(entries, int64(array)*sector); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if crc32.ChecksumIEEE(sum) != u32(16) || crc32.ChecksumIEEE(entries) != u32(88) {
		return nil, errors.New("its partition table is damaged")
	}
	var parts []Part
	for entry := range slices.Chunk(entries, int(each)) {
		start := int64(binary.LittleEndian.Uint64(entry[32:]))
		last := int64(binary.LittleEndian.Uint64(entry[40:]))
		if start > 0 && last >= start {
			parts = appendPart(parts, start, last-start+1, size)
		}
	}
	return parts, nil
}

// appendPart appends a partition, in sectors, if it lies within the disk.
func appendPart(parts []Part, start, count, size int64) []Part {
	if sectors := size / sector; start < 1 || count < 1 || start > sectors || count > sectors-start {
		return parts
	}
	return append(parts, Part{start * sector, count * sector})
}
