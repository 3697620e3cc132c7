package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/image/build"
)

// engines measures what depends on the engine with each, side by side: rare things once
// a round, what people wait for every day several times by turns.
func (b *bench) engines() error {
	usual := b.engine
	defer func() { b.engine, b.suffix = usual, "" }()
	// Of both templates the first removes what there is.
	for _, steps := range [][]func() error{{b.size, b.create, b.used("cold-create-cpu"), b.start, b.remove}, {b.first}, {b.warm}, {b.daily}, {b.daily}, {b.daily}} {
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
	if err = errors.Join(err, b.thawed(name), b.used("thaw-create-cpu")()); err != nil {
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
		err = b.runCPU()
	}
	if err == nil {
		_, err = b.output(b.hyve, "stop", name)
	}
	if err = errors.Join(err, b.timed("thaw-start", b.begin)); err != nil {
		return err
	}
	return errors.Join(b.thawed(name), b.remove())
}

// used notes the processor time that the machine's hypervisor has taken so far, which the
// host's other work changes less than the time on the clock.
func (b *bench) used(what string) func() error {
	return func() error {
		seconds, err := b.cpu()
		if err == nil {
			b.note(what, seconds)
		}
		return err
	}
}

// runCPU measures a container in processor time.
func (b *bench) runCPU() error {
	begun, err := b.cpu()
	if err != nil {
		return err
	}
	if _, err := b.onMachine("run", "--rm", "busybox", "true"); err != nil {
		return err
	}
	ended, err := b.cpu()
	if err == nil {
		b.note("run-cpu", ended-begun)
	}
	return err
}

// cpu returns the processor time of the machine's hypervisor, in seconds.
func (b *bench) cpu() (float64, error) {
	status, err := b.status(name)
	if err != nil {
		return 0, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", status.HypervisorID))
	if err != nil {
		return 0, err
	}
	// proc_pid_stat(5): utime and stime are the 14th and 15th field, the name before the
	// third is in parentheses.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d has no times", status.HypervisorID)
	}
	const ticks = 100 // a second, on every Linux that Go runs on
	user, errUser := strconv.ParseFloat(fields[11], 64)
	system, errSystem := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticks, errors.Join(errUser, errSystem)
}

// printEngines prints what engines has measured.
func (b *bench) printEngines() {
	floor := median(b.samples["floor"])
	for _, f := range []figure{
		{"cold-create", "s", 1, true}, {"cold-start", "s", 1, true}, {"stop", "s", 1, true}, {"run", "s", 1, true},
		{"init-share", "%", 100, false}, {"first-create", "s", 1, true}, {"thaw-create", "s", 1, true},
		{"thaw-start", "s", 1, true}, {"cold-create-cpu", "s", 1, false}, {"thaw-create-cpu", "s", 1, false},
		{"run-cpu", "s", 1, false}, {"image-size", "MiB", 1.0 / (1 << 20), false},
	} {
		scale := f.value
		for _, engine := range []build.Engine{build.Stable, build.Newest} {
			name := f.name + "/" + string(engine)
			figure{name, f.unit, scale * median(b.samples[name]), f.ofFloor}.print(floor)
		}
	}
}
