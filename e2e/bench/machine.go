package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/e2e/testregistry"
	"github.com/hyve-vm/hyve/internal/control"
	"github.com/hyve-vm/hyve/internal/guestapi"
)

func (b *bench) serveRegistry() (stop func(), err error) {
	handler, err := testregistry.New(filepath.Join(b.root, ".deps", "busybox"))
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go http.Serve(l, handler)
	b.mirror = fmt.Sprintf("http://host.docker.internal:%d", l.Addr().(*net.TCPAddr).Port)
	return func() { l.Close() }, nil
}

// create measures from nothing but a cached image to an answered docker version.
func (b *bench) create() error {
	return b.timed("cold-create", func() error { return b.make(name, "--cold", "--registry-mirror", b.mirror) })
}

// make makes a machine, to an answered docker version.
func (b *bench) make(name string, flags ...string) error {
	if _, err := b.output(b.hyve, append([]string{"create", name, "--cpus", "2", "--memory", "2GiB"}, flags...)...); err != nil {
		return err
	}
	_, err := b.output(b.docker, "--context", "hyve-"+name, "version")
	return err
}

// start measures a machine that was shut down, to an answered docker version.
func (b *bench) start() error {
	if err := b.timed("stop", func() error { _, err := b.output(b.hyve, "stop", "--cold", name); return err }); err != nil {
		return err
	}
	if err := b.timed("cold-start", b.begin); err != nil {
		return err
	}
	status, err := b.status(name)
	if err != nil {
		return err
	}
	b.note("init-share", initShare(status.Timing))
	return nil
}

// run measures a container from its creation to its removal, when one has run before.
func (b *bench) run() error {
	container := func() error { _, err := b.onMachine("run", "--rm", "busybox", "true"); return err }
	if err := container(); err != nil {
		return err
	}
	return b.timed("run", container)
}

// begin starts the machine, to an answered docker version.
func (b *bench) begin() error {
	if _, err := b.output(b.hyve, "start", name); err != nil {
		return err
	}
	_, err := b.onMachine("version")
	return err
}

// initShare is hyve-init's own part of a start: from its first instruction
// until both services can start, and from the engine's own word that it is ready
// until a client is answered.
func initShare(steps []control.Step) float64 {
	at := map[string]time.Duration{}
	for _, s := range steps {
		at[s.Name] = s.At
	}
	own := max(at[guestapi.PhaseNetwork], at[guestapi.PhaseDisk]) - at[guestapi.PhaseInit]
	own += at["ready"] - at[guestapi.PhaseEngine]
	return own.Seconds() / at["ready"].Seconds()
}

// hypervisorShare is the hypervisor's part of a thaw, until the guest goes on.
func hypervisorShare(steps []control.Step) float64 {
	at := map[string]time.Duration{}
	for _, s := range steps {
		at[s.Name] = s.At
	}
	return (at["hypervisor"] - at["prepared"]).Seconds() / at["ready"].Seconds()
}

func (b *bench) status(machine string) (control.Status, error) {
	return control.NewClient(b.home.Dir(machine).ControlSocket()).Status(context.Background())
}

// words measures commands that scripts call often.
func (b *bench) words() error {
	for range 5 {
		for _, word := range [][]string{{"env", name}, {"ls"}} {
			if err := b.timed(word[0], func() error { _, err := b.output(b.hyve, word...); return err }); err != nil {
				return err
			}
		}
	}
	return nil
}

// idle weighs the idle machine's processes.
func (b *bench) idle() error {
	time.Sleep(settle)
	return b.weigh("idle-pss", name)
}

// weigh notes the memory of machines' processes.
func (b *bench) weigh(what string, machines ...string) error {
	total := 0.0
	for _, machine := range machines {
		status, err := b.status(machine)
		if err != nil {
			return err
		}
		for _, pid := range []int{status.PID, status.HypervisorID} {
			pss, err := processPSS(pid)
			if err != nil {
				return err
			}
			total += pss
		}
	}
	b.note(what, total)
	return nil
}

// processPSS returns a process' proportional share of memory in bytes.
func processPSS(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); fields[0] == "Pss:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no Pss", pid)
}

func (b *bench) remove() error {
	_, err := b.output(b.hyve, "rm", "-f", name)
	return err
}

// build measures the image's building from cached packages.
func (b *bench) build() error {
	return b.timed("image-build", func() error { _, err := b.output(b.hyve, "image", "build"); return err })
}
