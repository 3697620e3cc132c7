package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/disk"
	"github.com/hyve-vm/hyve/internal/machine"
)

// A ForeignDisk is one that another program made and does not write to any more.
type ForeignDisk struct {
	Path   string
	Format string // as qemu-img has it: "raw", "qcow2", "vmdk", "vdi"
}

// Import is Create for a machine that gets its data, an ext4 file system of boot2docker's,
// from a foreign disk, which is only read. copied hears how many bytes of it have been
// copied. A machine that does not come up stays, with its data.
func Import(ctx context.Context, home machine.Home, options CreateOptions, from ForeignDisk, follow Follower, copied func(bytes int64)) (*machine.Machine, control.Status, error) {
	m, err := Plan(home, options)
	if err != nil {
		return nil, control.Status{}, err
	}
	if _, err := findHypervisor(ctx, m.Hypervisor, home); err != nil {
		return nil, control.Status{}, err
	}
	img, err := ensureImage(ctx, home, options, follow)
	if err != nil {
		return nil, control.Status{}, err
	}
	m.Image = img.Digest
	draft, err := home.Draft()
	if err != nil {
		return nil, control.Status{}, err
	}
	defer draft.Discard()
	if err := takeDisk(ctx, draft.Dir(), m, from, copied); err != nil {
		return nil, control.Status{}, fmt.Errorf("taking the data off %s: %w", from.Path, err)
	}
	if err := commitDraft(draft, m); err != nil {
		return nil, control.Status{}, err
	}
	var status control.Status
	if !options.NoStart {
		if status, err = Start(ctx, m, follow.Machine); err != nil {
			return m, status, err
		}
	}
	if err := OfferContext(options.Contexts, m); err != nil {
		follow.Warn(err)
	}
	return m, status, nil
}

// takeDisk makes a draft's disk, of the machine's size, of the data on a foreign one. A
// machine grows to hold what there is.
func takeDisk(ctx context.Context, draft machine.Dir, m *machine.Machine, from ForeignDisk, copied func(bytes int64)) error {
	raw := from.Path
	if from.Format != "raw" {
		raw = filepath.Join(string(draft), "converted")
		defer os.Remove(raw)
		if err := convert(ctx, raw, from); err != nil {
			return err
		}
	}
	file, err := bounded.Open(raw)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	part, err := disk.FindData(file, info.Size())
	if err != nil {
		return err
	}
	const mib = 1 << 20
	m.Disk = max(m.Disk, (part.Size+mib-1)/mib*mib)
	if err := disk.CopyPart(ctx, draft.Disk(), m.Disk, raw, part, copied); err != nil {
		return err
	}
	return disk.Sync(draft.Disk())
}

// NoConverterError says that there is no qemu-img, which a disk's format needs.
type NoConverterError struct{ Disk ForeignDisk }

func (e *NoConverterError) Error() string {
	return "its format is " + e.Disk.Format + ", and there is no qemu-img to convert it"
}

// Hint says how to go on.
func (e *NoConverterError) Hint() string {
	return "install qemu-img (Debian: apt install qemu-utils; macOS: brew install qemu) and try again"
}

// convert makes a raw disk of a foreign one.
func convert(ctx context.Context, to string, from ForeignDisk) error {
	program, err := exec.LookPath("qemu-img")
	if err != nil {
		return &NoConverterError{from}
	}
	path, err := filepath.Abs(from.Path) // which is no option, nor has a protocol
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, "convert", "-f", from.Format, "-O", "raw", path, to)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		said, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("converting it: %w: %.300q", err, said)
	}
	return err
}
