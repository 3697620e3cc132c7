package main

import (
	"errors"

	"github.com/hyve-vm/hyve/internal/image/build"
)

// engines measures what depends on the engine with each, side by side: what is seldom once
// a round, what people wait for every day several times by turns.
func (b *bench) engines() error {
	usual := b.engine
	defer func() { b.engine, b.suffix = usual, "" }()
	// Of both templates the first removes what there is.
	for _, steps := range [][]func() error{{b.size, b.create, b.start, b.remove}, {b.first}, {b.warm}, {b.daily}, {b.daily}, {b.daily}} {
		for _, engine := range []build.Engine{build.Stable, build.Newest} {
			b.engine, b.suffix = engine, "/"+string(engine)
			for _, step := range steps {
				if err := step(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// warm makes the template of the machines that follow.
func (b *bench) warm() error { return errors.Join(b.make(name), b.remove()) }

// size notes what the image takes.
func (b *bench) size() error {
	img, _, _, err := b.parts()
	if err == nil {
		b.note("image-size", float64(img.Size()))
	}
	return err
}

// daily measures a machine that is thawed at its creation, runs a container, and is thawed at
// a start.
func (b *bench) daily() error {
	err := b.timed("thaw-create", func() error { return b.make(name) })
	if err = errors.Join(err, b.thawed(name)); err != nil {
		return err
	}
	// Of a mirror the engine has to be told, so it is not part of that.
	if err = b.remove(); err == nil {
		err = b.make(name, "--registry-mirror", b.mirror)
	}
	if err == nil {
		err = b.run()
	}
	if err == nil {
		_, err = b.output(b.hyve, "stop", name)
	}
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
