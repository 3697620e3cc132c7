package datadisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/ext4"
	"github.com/hyve-vm/hyve/internal/guest/ioctl"
)

// Size is the size in bytes of the disk, or the partition, of that name.
func Size(name string) (int64, error) {
	const sector = 512
	b, err := os.ReadFile("/sys/class/block/" + name + "/size")
	if err != nil {
		return 0, fmt.Errorf("measuring the data disk: %w", err)
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("measuring the data disk: %w", err)
	}
	return sectors * sector, nil
}

// Grow gives the mounted file system all of the disk of that name, which has that many bytes.
func Grow(name string, size int64, logf func(string, ...any)) error {
	head, err := readHead("/dev/" + name)
	if err != nil {
		return err
	}
	fs, ok := ext4.Parse(head)
	if !ok {
		return errors.New("growing the data disk's file system: it is in a partition, which stays as it is")
	}
	return grow(fs, size, logf)
}

// grow gives that file system the whole of its disk, which has that many bytes and has grown.
func grow(fs ext4.Superblock, size int64, logf func(string, ...any)) error {
	blocks := size / fs.BlockSize
	// What is less than a group of blocks is left over at mkfs as well.
	if blocks-fs.Blocks < 8*fs.BlockSize && blocks-fs.Blocks < fs.Blocks/100 || blocks <= fs.Blocks {
		return nil
	}
	dir, err := os.Open(Dir)
	if err != nil {
		return fmt.Errorf("growing the data disk's file system: %w", err)
	}
	defer dir.Close()
	const resizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64)
	arg := binary.NativeEndian.AppendUint64(nil, uint64(blocks))
	if err := ioctl.Call(dir.Fd(), resizeFS, arg); err != nil {
		return fmt.Errorf("growing the data disk's file system from %d to %d blocks: %w", fs.Blocks, blocks, err)
	}
	logf("the data disk's file system grew from %d to %d MiB", fs.Blocks*fs.BlockSize>>20, blocks*fs.BlockSize>>20)
	return nil
}
