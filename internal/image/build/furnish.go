package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyve-vm/hyve/internal/image"
)

// A guest is what the files of an image are written from.
type guest struct {
	root    *tree
	version string // of the kernel
	vmlinuz []byte
	kernel  []byte
	modules *moduleSet
	initrd  []*module // in the order of loading
}

// furnish takes the kernel out of the tree and puts everything else into it.
func (b *builder) furnish(root *tree) (*guest, error) {
	g := &guest{root: root}
	boot := root.get("boot")
	if boot == nil {
		return nil, errors.New("the kernel package has no boot directory")
	}
	for _, name := range boot.names() {
		v, ok := strings.CutPrefix(name, "vmlinuz-")
		if ok && g.version != "" {
			return nil, fmt.Errorf("there are two kernels, %s and %s", g.version, v)
		}
		if ok {
			g.version = v
		}
	}
	if g.version == "" {
		return nil, errors.New("the kernel package has no vmlinuz")
	}
	var err error
	if g.vmlinuz, err = root.read("boot/vmlinuz-" + g.version); err != nil {
		return nil, err
	}
	if g.kernel, err = bootKernel(b.opts.Arch, g.vmlinuz); err != nil {
		return nil, fmt.Errorf("reading kernel %s: %w", g.version, err)
	}
	root.remove("boot")
	if err := root.put("boot", dir(0o755)); err != nil {
		return nil, err
	}
	docker, _, _ := strings.Cut(b.docker().Version, "+")
	if err := addSystem(root, b.opts.HyveInit, b.debian.Date, docker); err != nil {
		return nil, err
	}
	if err := g.addModules(); err != nil {
		return nil, err
	}
	unknown, err := reword(root)
	if err != nil {
		return nil, err
	}
	for _, err := range unknown {
		b.warn(err)
	}
	for _, err := range g.modules.pruned {
		b.warn(err)
	}
	return g, nil
}

// addModules indexes the root's modules and decides what is loaded when.
func (g *guest) addModules() error {
	var err error
	if g.modules, err = readModules(g.root, g.version); err != nil {
		return err
	}
	builtin, err := g.modules.builtins(g.root)
	if err != nil {
		return err
	}
	if err := g.modules.index(g.root, builtin); err != nil {
		return err
	}
	loaded := map[string]bool{}
	if g.initrd, err = g.modules.order(initrdModules, builtin, loaded); err != nil {
		return err
	}
	engine, err := g.modules.order(engineModules, builtin, loaded)
	if err != nil {
		return err
	}
	return g.root.put("usr/lib/modules/engine.load", file(0o644, loadList("/"+g.modules.dir, engine)))
}

// write writes the image's files.
func (b *builder) write(ctx context.Context, dir string, g *guest) error {
	bill, err := sbom(b.opts.Arch, b.packages, b.opts.HyveInit, b.debian.Date)
	if err != nil {
		return err
	}
	initrd, err := makeInitrd(b.opts.HyveInit, g.initrd)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		image.KernelFile: g.kernel, image.KernelOriginalFile: g.vmlinuz,
		image.InitrdFile: initrd, image.SBOMFile: bill,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return fmt.Errorf("writing the image: %w", err)
		}
	}
	var total int64
	_ = g.root.walk(func(_ string, n *node) error { total += n.size; return nil })
	out, err := os.OpenFile(filepath.Join(dir, image.RootFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	err = writeEROFS(ctx, out, g.root, b.debian.Date, func(done int64) { b.stage("Writing the image", done, total) })
	return errors.Join(err, out.Close())
}

// makeInitrd holds what runs before the root is mounted.
func makeInitrd(init []byte, modules []*module) ([]byte, error) {
	var c cpio
	c.dir("dev")
	c.char("dev/console", 0o600, 5, 1)
	c.char("dev/null", 0o666, 1, 3)
	for _, d := range []string{"proc", "sys", "run", "modules"} {
		c.dir(d)
	}
	c.file("init", 0o755, init)
	var list bytes.Buffer
	for _, m := range modules {
		data, err := io.ReadAll(io.NewSectionReader(m.node.data, 0, m.node.size))
		if err != nil {
			return nil, fmt.Errorf("reading module %s: %w", m.name, err)
		}
		name := "modules/" + m.name + ".ko"
		c.file(name, 0o644, data)
		fmt.Fprintf(&list, "/%s\n", name)
	}
	c.file("modules.load", 0o644, list.Bytes())
	return c.bytes(), nil
}
