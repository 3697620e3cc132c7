package datadisk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyve-vm/hyve/internal/ext4"
	"github.com/hyve-vm/hyve/internal/guest/process"
)

// prepare returns the device to mount of the disk of that name.
func prepare(name string, r *process.Reaper, logf func(string, ...any)) (string, ext4.Superblock, error) {
	device := "/dev/" + name
	head, err := readHead(device)
	if err != nil {
		return "", ext4.Superblock{}, err
	}
	if fs, ok := ext4.Parse(head); ok {
		if !fs.IsData() {
			logf("the data disk's file system has the label %q and is used as it is", fs.Label)
		}
		return device, fs, check(device, fs, r, logf)
	}
	if part, fs, ok := boot2dockerPartition(name); ok {
		return part, fs, check(part, fs, r, logf)
	}
	blank, asked := mayFormat(head)
	if blank {
		blank, err = restIsBlank(device)
		if err != nil {
			return "", ext4.Superblock{}, err
		}
	}
	if !blank && !asked {
		return "", ext4.Superblock{}, &notBlankError{content: describeContent(head)}
	}
	if err := format(device, blank, r); err != nil {
		return "", ext4.Superblock{}, err
	}
	head, err = readHead(device)
	if err != nil {
		return "", ext4.Superblock{}, err
	}
	fs, ok := ext4.Parse(head)
	if !ok {
		return "", ext4.Superblock{}, fmt.Errorf("making a file system on %s: there is none afterwards", device)
	}
	return device, fs, nil
}

// A notBlankError refuses to format a disk on which something is.
type notBlankError struct{ content string }

func (e *notBlankError) Error() string {
	return "refusing to format the data disk: it holds " + e.content
}

// Hint says how to go on.
func (e *notBlankError) Hint() string {
	return "the data disk must be blank (all zeros) or hold an ext4 file system; give the machine a new disk, or overwrite this one's first megabyte with zeros to give up what is on it"
}

// boot2dockerPartition looks for a partition that boot2docker made on the disk.
func boot2dockerPartition(disk string) (string, ext4.Superblock, bool) {
	parts, _ := filepath.Glob("/sys/block/" + disk + "/" + disk + "*/partition")
	for _, p := range parts {
		device := "/dev/" + filepath.Base(filepath.Dir(p))
		head, err := readHead(device)
		if err != nil {
			continue
		}
		if fs, ok := ext4.Parse(head); ok && fs.IsData() {
			return device, fs, true
		}
	}
	return "", ext4.Superblock{}, false
}

func readHead(device string) ([]byte, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, fmt.Errorf("reading the data disk: %w", err)
	}
	defer f.Close()
	head := make([]byte, headSize)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("reading the data disk: %w", err)
	}
	return head[:n], nil
}

// restIsBlank looks at samples of a disk whose beginning is blank: its end,
// where backups of partition tables are, and places in between.
func restIsBlank(device string) (bool, error) {
	f, err := os.Open(device)
	if err != nil {
		return false, fmt.Errorf("reading the data disk: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, fmt.Errorf("reading the data disk: %w", err)
	}
	const samples, length = 64, 4 << 10
	buf := make([]byte, length)
	for i := int64(1); i <= samples; i++ {
		at := max(0, size/samples*i-length) / length * length
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, fmt.Errorf("reading the data disk at byte %d: %w", at, err)
		}
		if !allZero(buf[:n]) {
			return false, nil
		}
	}
	last := make([]byte, 64<<10)
	n, err := f.ReadAt(last, max(0, size-int64(len(last))))
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("reading the end of the data disk: %w", err)
	}
	return allZero(last[:n]), nil
}

// format makes the machine's file system. On a disk of zeros the tables of
// inodes and the journal need no writing, now or later, so that the disk's file
// on the host stays sparse.
func format(device string, zeroed bool, r *process.Reaper) error {
	extended := "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
	if zeroed {
		extended += ",assume_storage_prezeroed=1"
	}
	// Images are many small files: an inode for every 8 KiB. No blocks are kept
	// back for root, who is the only one to write here.
	_, err := r.Run(nil, "/usr/sbin/mkfs.ext4", "-q", "-F", "-L", ext4.DataLabel, "-i", "8192", "-m", "0", "-E", extended, device)
	return err
}

// check runs e2fsck where the superblock asks for more than a mount does.
func check(device string, fs ext4.Superblock, r *process.Reaper, logf func(string, ...any)) error {
	if !fs.NeedsCheck() {
		return nil
	}
	logf("the data disk needs a check (clean %t, errors %t)", fs.Clean, fs.Errors)
	return fsck(device, r, logf)
}

func fsck(device string, r *process.Reaper, logf func(string, ...any)) error {
	out, status, err := r.Output(nil, "/usr/sbin/e2fsck", "-p", device)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		logf("e2fsck: %s", strings.TrimSpace(line))
	}
	const corrected, reboot = 1, 2 // bits of its status; more are failures
	if !status.Exited() || status.ExitStatus()&^(corrected|reboot) != 0 {
		return &damagedError{fmt.Errorf("checking the data disk: e2fsck %s: %s", process.Describe(status), strings.ReplaceAll(process.LastLines(out, 5), "\n", "; "))}
	}
	return nil
}

// A damagedError says that the data disk's file system is beyond what a boot mends.
type damagedError struct{ error }

func (e *damagedError) Unwrap() error { return e.error }

// Hint says how to go on.
func (*damagedError) Hint() string {
	return "its file system is damaged: hyve rollback goes back to a snapshot; or repair a copy of the machine's disk with e2fsck -fy"
}
