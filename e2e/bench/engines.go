package main

import (
	"errors"

	"github.com/hyve-vm/hyve/internal/image/build"
)

// engines measures what depends on the engine with each, side by side.
func (b *bench) engines() error {
	usual := b.engine
	defer func() { b.engine, b.suffix = usual, "" }()
	for _, engine := range []build.Engine{build.Stable, build.Newest} {
		b.engine, b.suffix = engine, "/"+string(engine)
		for _, step := range []func() error{b.size, b.create, b.run, b.start, b.run, b.remove, b.first, b.thawTwice} {
			if err := step(); err != nil {
				return err
			}
		}
	}
	return nil
}

// size notes what the image takes.
func (b *bench) size() error {
	img, _, _, err := b.parts()
	if err == nil {
		b.note("image-size", float64(img.Size()))
	}
	return err
}

// thawTwice measures a machine that is thawed at its creation, and at a start.
func (b *bench) thawTwice() error {
	if err := b.timed("thaw-create", func() error { return b.make(name) }); err != nil {
		return err
	}
	if err := b.thawed(name); err != nil {
		return err
	}
	_, err := b.output(b.hyve, "stop", name)
	if err = errors.Join(err, b.timed("thaw-start", b.begin)); err != nil {
		return err
	}
	return errors.Join(b.thawed(name), b.remove())
}

// printEngines prints what engines has measured.
func (b *bench) printEngines() {
	floor := median(b.samples["floor"])
	for _, f := range []figure{
		{"cold-create", "s", 1, true}, {"cold-start", "s", 1, true}, {"stop", "s", 1, true}, {"run", "s", 1, true},
		{"init-share", "%", 100, false}, {"first-create", "s", 1, true}, {"thaw-create", "s", 1, true},
		{"thaw-start", "s", 1, true}, {"image-size", "MiB", 1.0 / (1 << 20), false},
	} {
		scale := f.value
		for _, engine := range []build.Engine{build.Stable, build.Newest} {
			name := f.name + "/" + string(engine)
			figure{name, f.unit, scale * median(b.samples[name]), f.ofFloor}.print(floor)
		}
	}
}
