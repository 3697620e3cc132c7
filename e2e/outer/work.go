package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// workSize is what hyve, its machines and the tests in the outer VM may take of its disk,
// in bytes. The file is sparse.
const workSize = 24 << 30

// package paths within the module
const (
	modulePath = "github.com/hyve-vm/hyve/"
	hypervisor = "internal/hypervisor/qemu"
)

// programs are those of the tests that run in containers.
var programs = []string{"echo", "keeper", "attacker"}

// makeWork makes work.img, the part of a checkout that is carried into the outer VM:
// hyve, its guest image, the compiled tests and what they read.
func (o *outer) makeWork(ctx context.Context) error {
	dir := filepath.Join(o.dir, "work")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := o.compile(ctx, dir); err != nil {
		return err
	}
	home := filepath.Join(o.root, ".e2e")
	if _, err := output(ctx, []string{"HYVE_HOME=" + home}, filepath.Join(dir, "bin/hyve"), "image", "build"); err != nil {
		return err
	}
	carried := []string{".e2e/images", ".deps/busybox", hypervisor + "/testdata"}
	if o.inner != "trixie" {
		if _, err := o.unpack(ctx, o.inner); err != nil {
			return err
		}
		carried = append(carried, ".deps/"+o.inner)
	}
	for _, path := range carried {
		if err := carry(filepath.Join(dir, path), filepath.Join(o.root, path)); err != nil {
			return err
		}
	}
	image := filepath.Join(o.dir, "work.img")
	defer os.RemoveAll(dir)
	return makeDisk(ctx, image, dir, workSize)
}

// compile builds everything here: in the outer VM it would take minutes.
func (o *outer) compile(ctx context.Context, dir string) error {
	env := []string{"CGO_ENABLED=0"}
	const link = "-ldflags=-s -w"
	builds := [][]string{
		{"build", "-trimpath", link, "-o", filepath.Join(dir, "bin/hyve"), "./cmd/hyve"},
		{"test", "-c", link, "-o", filepath.Join(dir, hypervisor, "qemu.test"), "./" + hypervisor},
		{"test", "-c", link, "-o", filepath.Join(dir, "e2e/e2e.test"), "./e2e"},
	}
	for _, program := range programs {
		builds = append(builds, []string{"build", "-o", filepath.Join(dir, "bin/e2e", program), "./e2e/" + program})
	}
	for _, args := range builds {
		if _, err := output(ctx, env, goTool(), args...); err != nil {
			return err
		}
	}
	return nil
}

// goTool is the go command that make was told to use.
func goTool() string {
	if g := os.Getenv("GO"); g != "" {
		return g
	}
	return "go"
}

// carry copies a file or a directory by linking its files.
func carry(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(path, from)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.Link(path, target); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("carrying %s: %w", path, err)
		}
		return nil
	})
}
