package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// machineWords are the words that docker-machine's users and their scripts call most.
var machineWords = []string{"env", "ls", "ip", "inspect"}

// prepareDockerMachine builds today's docker-machine, and links hyve under the names by
// which it stands in for that and serves it.
func (b *bench) prepareDockerMachine() error {
	b.rancher = filepath.Join(string(b.home), "clients", "rancher-machine")
	build := exec.Command("go", "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", b.rancher, "github.com/rancher/machine/cmd/rancher-machine")
	build.Dir = filepath.Join(b.root, "e2e", "clients", "rancher-machine")
	build.Env = append(os.Environ(), "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building rancher-machine: %w\n%s", err, out)
	}
	names := filepath.Join(b.work, "names")
	if err := os.Mkdir(names, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"docker-machine", "docker-machine-driver-xhyve"} {
		if err := os.Symlink(b.hyve, filepath.Join(names, name)); err != nil {
			return err
		}
	}
	b.dockerMachine = filepath.Join(names, "docker-machine")
	return nil
}

// dockerMachines measures hyve as docker-machine beside the real one, which uses hyve as
// a plugin, with a template at hand.
func (b *bench) dockerMachines() error {
	flags := []string{"--driver", "xhyve", "--xhyve-cpu-count", "2", "--xhyve-memory-size", "2048", name}
	create := func(program string) func() error {
		return func() error {
			if _, err := b.output(program, append([]string{"create"}, flags...)...); err != nil {
				return err
			}
			_, err := b.onMachine("version")
			return err
		}
	}
	// The first makes the template.
	if err := errors.Join(create(b.dockerMachine)(), b.remove()); err != nil {
		return err
	}
	if err := b.timed("machine-create", create(b.dockerMachine)); err != nil {
		return err
	}
	if err := b.thawed(name); err != nil {
		return err
	}
	if err := b.remove(); err != nil {
		return err
	}
	if err := b.timed("plugin-create", create(b.rancher)); err != nil {
		return err
	}
	for range 5 {
		for _, word := range machineWords {
			args := []string{word}
			if word != "ls" {
				args = append(args, name)
			}
			for prefix, program := range map[string]string{"machine-": b.dockerMachine, "rancher-": b.rancher} {
				if err := b.timed(prefix+word, func() error { _, err := b.output(program, args...); return err }); err != nil {
					return err
				}
			}
		}
	}
	_, err := b.output(b.rancher, "rm", "-y", name)
	return err
}

// printDockerMachines prints times in ratio to the real docker-machine's, and a creation
// through the plugin in ratio to hyve's own.
func (b *bench) printDockerMachines() {
	m := func(name string) float64 { return median(b.samples[name]) }
	for _, word := range machineWords {
		figure{"machine-" + word, "s", m("machine-" + word), false}.print(0)
		figure{"machine-" + word + "-ratio", "x", m("machine-"+word) / m("rancher-"+word), false}.print(0)
	}
	figure{"machine-create", "s", m("machine-create"), true}.print(m("floor"))
	figure{"plugin-create", "s", m("plugin-create"), true}.print(m("floor"))
	figure{"plugin-create-cold-ratio", "x", m("plugin-create") / m("cold-create"), false}.print(0)
	figure{"plugin-create-thaw-ratio", "x", m("plugin-create") / m("thaw-create"), false}.print(0)
}
