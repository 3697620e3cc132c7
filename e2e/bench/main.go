// Command bench measures hyve against a floor, side by side in one run, and
// prints one line a figure: NAME VALUE UNIT RATIO-TO-FLOOR.
//
// The floor is a bare boot in the same emulator: Debian's kernel as shipped and
// an init that powers off at its first instruction. Times are medians over
// rounds in which everything takes its turn; docs/performance.md says what each
// figure means.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/hyve-vm/hyve/e2e/testimage"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/machine"
)

func main() {
	rounds := flag.Int("rounds", 3, "how often everything is measured")
	engine := flag.String("engine", string(build.DefaultEngine), "engine that is measured: stable or newest")
	only := flag.Bool("engines", false, "only compare the engines")
	machines := flag.Bool("docker-machine", false, "only compare with the real docker-machine, and what that takes")
	flag.Parse()
	if err := run(*rounds, build.Engine(*engine), *only, *machines); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	root   string // the checkout
	hyve   string
	docker string
	home   machine.Home
	work   string // removed at the end; holds docker's configuration as well
	mirror string // of the registry, as a guest sees it
	engine build.Engine
	suffix string // of the figures' names

	dockerMachine string // hyve, called by that name
	rancher       string // today's docker-machine

	samples map[string][]float64
}

const name = "bench" // of the machine

// settle is how long an idle machine is left alone before it is weighed.
const settle = 30 * time.Second

func run(rounds int, engine build.Engine, only, machines bool) error {
	b := &bench{samples: map[string][]float64{}, engine: engine}
	done, err := b.prepare()
	if err != nil {
		return err
	}
	defer done()
	for round := range rounds {
		fmt.Fprintf(os.Stderr, "bench: round %d of %d\n", round+1, rounds)
		// What the bars are about takes more than one turn: the host has its moods.
		steps := []func() error{b.floor, b.create, b.idle, b.words, b.start, b.floor, b.throughput, b.run, b.start, b.remove,
			b.floor, b.create, b.remove, b.first, b.thaw, b.dockerMachines, b.ten, b.slirp, b.build, b.engines}
		if only {
			steps = []func() error{b.floor, b.engines, b.floor}
		}
		if machines {
			steps = []func() error{b.floor, b.create, b.remove, b.first, b.thaw, b.dockerMachines, b.floor}
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
	}
	switch {
	case only:
		b.printEngines()
	case machines:
		b.printDockerMachines()
	default:
		b.print()
		b.printDockerMachines()
		b.printEngines()
	}
	return nil
}

// figure is one line of the result.
type figure struct {
	name, unit string
	value      float64
	ofFloor    bool // has a ratio to the floor
}

func (b *bench) print() {
	m := func(name string) float64 { return median(b.samples[name]) }
	floor := m("floor")
	for _, f := range []figure{
		{"floor", "s", floor, true},
		{"cold-create", "s", m("cold-create"), true},
		{"cold-start", "s", m("cold-start"), true},
		{"stop", "s", m("stop"), true},
		{"run", "s", m("run"), true},
		{"env", "s", m("env"), false},
		{"ls", "s", m("ls"), false},
		{"init-share", "%", 100 * m("init-share"), false},
		{"first-create", "s", m("first-create"), true},
		{"thaw-create", "s", m("thaw-create"), true},
		{"thaw-create-mirror", "s", m("thaw-create-mirror"), true},
		{"thaw-start", "s", m("thaw-start"), true},
		{"hypervisor-share", "%", 100 * m("hypervisor-share"), false},
		{"freeze", "s", m("stop-frozen") - m("stop"), true},
		{"host-write", "s", m("host-write"), true},
		{"suspend", "s", m("suspend"), true},
		{"resume", "s", m("resume"), true},
		{"clone", "s", m("clone"), true},
		{"wake", "s", m("wake"), true},
		{"frozen-disk", "MiB", m("frozen-disk") / (1 << 20), false},
		{"thawed-pss", "MiB", m("thawed-pss") / (1 << 20), false},
		{"thaw-ten-first", "s", m("thaw-ten-first"), true},
		{"thaw-ten-last", "s", m("thaw-ten-last"), true},
		{"thaw-ten-pss", "MiB", m("thaw-ten-pss") / (1 << 20), false},
		{"idle-pss", "MiB", m("idle-pss") / (1 << 20), false},
		{"forward-in", "x", m("forward-in") / m("slirp-in"), false},
		{"forward-out", "x", m("forward-out") / m("slirp-out"), false},
		{"image-build", "s", m("image-build"), true},
	} {
		f.print(floor)
	}
}

func (f figure) print(floor float64) {
	ratio := "-"
	if f.ofFloor {
		ratio = fmt.Sprintf("%.2f", f.value/floor)
	}
	fmt.Printf("%s %.3f %s %s\n", f.name, f.value, f.unit, ratio)
}

func median(samples []float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	if n := len(sorted); n%2 == 1 {
		return sorted[n/2]
	} else if n > 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return 0
}

func (b *bench) note(name string, value float64) {
	name += b.suffix
	b.samples[name] = append(b.samples[name], value)
	fmt.Fprintf(os.Stderr, "bench: %s %.3f\n", name, value)
}

// timed notes how long f takes, in seconds.
func (b *bench) timed(name string, f func() error) error {
	began := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.note(name, time.Since(began).Seconds())
	return nil
}

// prepare makes the data directory with an image in it, and the registry.
func (b *bench) prepare() (done func(), err error) {
	if b.root, err = os.Getwd(); err != nil {
		return nil, err
	}
	b.hyve = filepath.Join(b.root, "bin", "hyve")
	if b.docker, err = exec.LookPath("docker"); err != nil {
		b.docker = filepath.Join(b.root, ".deps", "docker")
	}
	b.home = machine.Home(filepath.Join(b.root, ".bench"))
	if b.work, err = os.MkdirTemp("", "hyve-bench"); err != nil {
		return nil, err
	}
	stop, err := b.serveRegistry()
	if err != nil {
		return nil, err
	}
	b.output(b.hyve, "rm", "-f", name) // left by a run that was cut short
	for _, engine := range []build.Engine{build.Stable, build.Newest} {
		if _, err := testimage.Make(context.Background(), b.home, engine); err != nil {
			return nil, err
		}
	}
	if err := b.prepareDockerMachine(); err != nil {
		return nil, err
	}
	return func() {
		b.output(b.hyve, "rm", "-f", name)
		stop()
		os.RemoveAll(b.work)
	}, nil
}

// output runs a command and returns its standard output.
func (b *bench) output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(b.work, "names")+":"+os.Getenv("PATH"), "SHELL=/bin/sh",
		"MACHINE_STORAGE_PATH="+filepath.Join(b.work, "store"), "HYVE_HOME="+string(b.home), "DOCKER_CONFIG="+b.work, "DOCKER_HOST=", "DOCKER_CONTEXT=", "HYVE_ENGINE="+string(b.engine))
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); ok {
		return "", fmt.Errorf("%s %q: %w\n%s", filepath.Base(name), args, err, exit.Stderr)
	}
	return string(out), err
}

// onMachine runs docker against the machine.
func (b *bench) onMachine(args ...string) (string, error) {
	return b.output(b.docker, append([]string{"--context", "hyve-" + name}, args...)...)
}
