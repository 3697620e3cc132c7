package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyve-vm/hyve/internal/ext4"
	"github.com/hyve-vm/hyve/internal/guest/process"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

// dataDir is where the data disk is mounted; persistentDirs of it appear at the
// same paths of the root. The layout is boot2docker's, whose disks are taken.
const dataDir = "/mnt/data"

var persistentDirs = []struct {
	path string
	mode os.FileMode
}{
	{"/var/lib/docker", 0o710},
	{"/var/lib/containerd", 0o711},
	{"/var/lib/boot2docker", 0o755},
}

// boot2dockerDirs are there for who writes a file into them: docker-machine when it
// provisions, and people who add a certificate.
var boot2dockerDirs = []string{"certs", "etc/docker/certs.d"}

// mountData waits for the data disk, makes its file system if the disk is blank,
// repairs and grows it where needed, and mounts what is to persist.
func mountData(ctx context.Context, d *devices, r *process.Reaper, logf func(string, ...any)) error {
	name, err := d.disk(ctx, guestapi.DataDisk)
	if err != nil {
		return err
	}
	device, fs, err := prepareDisk(name, r, logf)
	if err != nil {
		return err
	}
	if err := mountExt4(device, r, logf); err != nil {
		return err
	}
	size, err := deviceSize(device)
	if err == nil {
		err = grow(device, size, fs, logf)
	}
	if err != nil {
		// A disk that stayed small still makes a machine.
		logf("%v", err)
	}
	return bindPersistent()
}

// prepareDisk returns the device to mount of the disk of that name.
func prepareDisk(name string, r *process.Reaper, logf func(string, ...any)) (string, ext4.Superblock, error) {
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

// mountExt4 mounts the data disk, which replays its journal after a crash. What
// cannot be mounted is checked and tried once more.
func mountExt4(device string, r *process.Reaper, logf func(string, ...any)) error {
	m := mountPoint{source: device, target: dataDir, fstype: "ext4", flags: unix.MS_NOATIME,
		data: "discard,errors=remount-ro"}
	err := m.mount()
	if err == nil {
		return nil
	}
	logf("%v; checking the disk", err)
	if checked := fsck(device, r, logf); checked != nil {
		return fmt.Errorf("%w; %w", err, checked)
	}
	if err := m.mount(); err != nil {
		return &damagedError{err}
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

// deviceSize is a disk's or a partition's size in bytes.
func deviceSize(device string) (int64, error) {
	const sector = 512
	b, err := os.ReadFile("/sys/class/block/" + filepath.Base(device) + "/size")
	if err != nil {
		return 0, fmt.Errorf("measuring the data disk: %w", err)
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("measuring the data disk: %w", err)
	}
	return sectors * sector, nil
}

// growTimeout bounds the wait for a disk that the host makes larger; it takes milliseconds.
const growTimeout = 30 * time.Second

// growData waits until the data disk has that many bytes and gives them to its file system,
// which is in use.
func (g *guest) growData(size int64) error {
	g.freezing.Lock()
	defer g.freezing.Unlock()
	if g.frozen {
		return errors.New("growing the data disk's file system: it is frozen")
	}
	ctx, cancel := context.WithTimeout(g.ctx, growTimeout)
	defer cancel()
	name, err := g.devices.disk(ctx, guestapi.DataDisk)
	if err != nil {
		return err
	}
	device := "/dev/" + name
	var now int64
	larger := func() bool {
		now, err = deviceSize(device)
		return err != nil || now >= size
	}
	if waited := g.devices.await(ctx, larger); waited != nil || err != nil {
		return errors.Join(err, waited)
	}
	head, err := readHead(device)
	if err != nil {
		return err
	}
	fs, ok := ext4.Parse(head)
	if !ok {
		return errors.New("growing the data disk's file system: it is in a partition, which stays as it is")
	}
	return grow(device, now, fs, g.out.Logf)
}

// grow gives the mounted file system the whole of its disk of that size, which has grown.
func grow(device string, size int64, fs ext4.Superblock, logf func(string, ...any)) error {
	blocks := size / fs.BlockSize
	// What is less than a group of blocks is left over at mkfs as well.
	if blocks-fs.Blocks < 8*fs.BlockSize && blocks-fs.Blocks < fs.Blocks/100 || blocks <= fs.Blocks {
		return nil
	}
	dir, err := os.Open(dataDir)
	if err != nil {
		return fmt.Errorf("growing the data disk's file system: %w", err)
	}
	defer dir.Close()
	const resizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64)
	arg := binary.NativeEndian.AppendUint64(nil, uint64(blocks))
	if err := ioctlBytes(dir.Fd(), resizeFS, arg); err != nil {
		return fmt.Errorf("growing the data disk's file system from %d to %d blocks: %w", fs.Blocks, blocks, err)
	}
	logf("the data disk's file system grew from %d to %d MiB", fs.Blocks*fs.BlockSize>>20, blocks*fs.BlockSize>>20)
	return nil
}

// syncDisk has everything on the data disk that was written: first its own file system,
// where nearly all is, then what lies in files of that, or beside it, and may hang.
func syncDisk() error {
	dir, err := os.Open(dataDir)
	if err != nil {
		return fmt.Errorf("syncing the data disk: %w", err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("syncing the data disk: %w", err)
	}
	unix.Sync()
	return nil
}

// bindPersistent shows the data disk's directories at their places.
func bindPersistent() error {
	for _, dir := range persistentDirs {
		source := dataDir + dir.path
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			return fmt.Errorf("making %s: %w", source, err)
		}
		if err := os.Mkdir(source, dir.mode); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("making %s: %w", source, err)
		}
		m := mountPoint{source: source, target: dir.path, flags: unix.MS_BIND}
		if err := m.mount(); err != nil {
			return err
		}
	}
	for _, dir := range boot2dockerDirs {
		if err := os.MkdirAll(filepath.Join("/var/lib/boot2docker", dir), 0o755); err != nil {
			return fmt.Errorf("making a directory of boot2docker's: %w", err)
		}
	}
	return nil
}
