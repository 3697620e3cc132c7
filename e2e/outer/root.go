package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// bootScript is the outer VM's /init, in its initial RAM file system.
//
//go:embed boot.sh
var bootScript []byte

// rootSize is what the file system of the outer VM's programs may grow to, in bytes.
const rootSize = 2 << 30

// makeRoot makes what the outer VM boots of, once for each state of Debian's packages:
// kernel, initrd and root.img. It finds the QEMU, too, that runs the outer VM.
func (o *outer) makeRoot(ctx context.Context) error {
	bin, err := o.unpack(ctx, "trixie")
	if err != nil {
		return err
	}
	o.qemu = filepath.Join(bin, "qemu-system-x86_64")
	if bin, err = o.unpack(ctx, "trixie", "outer"); err != nil {
		return err
	}
	root := filepath.Join(filepath.Dir(bin), "root")
	modules, err := filepath.Glob(filepath.Join(root, "usr/lib/modules/*"))
	if err != nil || len(modules) != 1 {
		return fmt.Errorf("there is not one kernel in %s", root)
	}
	kernel := filepath.Base(modules[0])
	if err := o.makeInitrd(ctx, root, modules[0]); err != nil {
		return err
	}
	image := filepath.Join(o.dir, "root-"+kernel+".img")
	if _, err := os.Stat(image); err == nil {
		return o.link(image, filepath.Join(root, "boot", "vmlinuz-"+kernel))
	}
	if _, err := output(ctx, nil, filepath.Join(bin, "depmod"), "-b", root, kernel); err != nil {
		return err
	}
	for from, to := range map[string]string{"passwd.master": "passwd", "group.master": "group"} {
		data, err := os.ReadFile(filepath.Join(root, "usr/share/base-passwd", from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, "etc", to), data, 0o644); err != nil {
			return err
		}
	}
	if err := makeDisk(ctx, image, root, rootSize); err != nil {
		return err
	}
	return o.link(image, filepath.Join(root, "boot", "vmlinuz-"+kernel))
}

// link gives kernel and root the names by which the VM takes them.
func (o *outer) link(image, kernel string) error {
	for name, target := range map[string]string{"root.img": image, "vmlinuz": kernel} {
		path := filepath.Join(o.dir, name)
		_ = os.Remove(path)
		if err := os.Symlink(target, path); err != nil {
			return err
		}
	}
	return nil
}

// unpack has Debian's packages unpacked, unless they are, and returns the directory of
// their programs.
func (o *outer) unpack(ctx context.Context, args ...string) (string, error) {
	out, err := output(ctx, nil, filepath.Join(o.root, "scripts", "unpack.sh"), args...)
	return strings.TrimSpace(string(out)), err
}

// makeInitrd packs a static busybox and the one driver that the kernel has as a module
// and needs for its root.
func (o *outer) makeInitrd(ctx context.Context, root, modules string) error {
	dir, err := os.MkdirTemp(o.dir, "initrd")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	busybox := filepath.Join(root, "usr/bin/busybox")
	driver, err := output(ctx, nil, busybox, "xzcat", filepath.Join(modules, "kernel/drivers/block/virtio_blk.ko.xz"))
	if err != nil {
		return err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	var names bytes.Buffer
	for name, data := range map[string][]byte{"init": bootScript, "busybox": program, "virtio_blk.ko": driver} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			return err
		}
		fmt.Fprintln(&names, name)
	}
	pack := exec.CommandContext(ctx, busybox, "cpio", "-o", "-H", "newc")
	pack.Dir, pack.Stdin = dir, &names
	archive, err := pack.Output()
	if err != nil {
		return fmt.Errorf("packing the initrd: %w", err)
	}
	return os.WriteFile(filepath.Join(o.dir, "initrd"), archive, 0o600)
}

// makeDisk writes a directory to a file system of its own: all of it or nothing.
func makeDisk(ctx context.Context, image, dir string, size int64) error {
	draft := image + ".draft"
	defer os.Remove(draft)
	_ = os.Remove(draft)
	_, err := output(ctx, nil, "mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0,lazy_itable_init=1", "-i", "65536", "-m", "0", "-d", dir, draft, fmt.Sprint(size>>10)+"k")
	if err != nil {
		return err
	}
	return os.Rename(draft, image)
}

// output runs a program of the host, and says what it complained of.
func output(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, out, complaint.Bytes())
	}
	return out, nil
}
