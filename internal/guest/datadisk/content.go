// Package datadisk finds out what is on the machine's data disk, makes and mends its file
// system, and mounts it.
package datadisk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// headSize is how much of a disk's beginning says what is on it, in bytes.
const headSize = 1 << 20

// boot2dockerMagic at the start of a disk asked boot2docker to format it.
const boot2dockerMagic = "boot2docker, please format-me"

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

// removedDrivers are the storage drivers that docker has given up, aufs and overlay in its
// version 24, devicemapper in 25, and a directory in docker's that is not empty where one
// of them has kept something.
var removedDrivers = []struct{ name, layers string }{
	{"aufs", "aufs/layers"},
	{"overlay", "overlay"},
	{"devicemapper", "image/devicemapper/imagedb/content/sha256"},
}

// RemovedDriver names the storage driver, "" if none, of which docker's directory has
// something that docker itself passes over without a word.
func RemovedDriver(root string) string {
	for _, driver := range removedDrivers {
		if layers, err := os.ReadDir(filepath.Join(root, driver.layers)); err == nil && len(layers) > 0 {
			return driver.name
		}
	}
	return ""
}
