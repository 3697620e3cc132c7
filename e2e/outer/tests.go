package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// core are the end-to-end tests of every commit: a machine's life with KVM.
var core = []string{"Run", "PublishedTCP", "SuspendAndResume", "StopIsOrderly"}

// more are the others that are about what KVM changes: processors, memory, clocks, frozen
// states. Those that are in neither list are the same with any accelerator, or want what
// the outer VM has not (a go command, npm, Debian's archive).
var more = []string{"ClockFollowsTheHost", "PublishedUDP", "DataSurvives", "StopAndThaw", "StaleStates", "KilledFreeze", "TwinsOfOneTemplate",
	"SharedMemory", "Clone", "Snapshots", "Idle", "KernelPanic", "EarlyCrash", "FrozenForAMonth", "FullDiskWhileFreezing", "KilledTemplate",
	"TemplateBeforehand", "Throwaway", "TwentyAtOnce", "Reboot", "EngineCrash", "Stats", "Identity", "Set", "PowerCutsDuringRun", "Soak",
	"PublishedDoors", "TwoMachinesOnePort", "SSH", "Doctor"}

// A step is a boot of the outer VM and what runs in it.
type step struct {
	name, cpu, script string
}

// runTests runs the tests in the outer VM. With -long it is switched off in the midst of
// them, as the host's power fails, and once more to come back without KVM.
func (o *outer) runTests(ctx context.Context) error {
	began := time.Now()
	var r results
	var errs []error
	for _, s := range o.steps() {
		at := time.Now()
		lines, err := o.boot(ctx, s.cpu, s.script, os.Stdout)
		r.read(lines)
		fmt.Printf("outer: %s: %.0f s\n", s.name, time.Since(at).Seconds())
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	all, err := o.allTests(ctx)
	if err != nil {
		return err
	}
	r.print(all)
	if o.tests == "" {
		errs = append(errs, r.missed(core))
	} else if r.passed == 0 {
		errs = append(errs, errors.New("no test has passed"))
	}
	fmt.Printf("outer: %d passed, %d failed in %.0f s\n", r.passed, len(r.failed), time.Since(began).Seconds())
	return errors.Join(errs...)
}

func (o *outer) steps() []step {
	selected := core
	if o.long {
		selected = slices.Concat(core, more)
	}
	pattern := "^Test(" + strings.Join(selected, "|") + ")$"
	if o.tests != "" {
		pattern = o.tests
	}
	const setting = "export HYVE_TEST_ACCEL=kvm; status=0\n"
	path := ""
	if o.inner != "trixie" {
		path = "export PATH=" + filepath.Join(o.root, ".deps", o.inner, "bin") + ":$PATH\n"
	}
	half := func(name, accel string) string {
		return path + setting + e2eCommand("^TestHostReboots$", "-accel "+accel+" -reboot "+name)
	}
	args := "-accel kvm"
	if o.long {
		args += " -long"
	}
	first := path + setting + "qemu-system-x86_64 --version | head -n 1; cat /proc/uptime\n"
	if o.tests == "" {
		first += "(cd " + hypervisor + " && ./qemu.test -test.v -test.timeout 20m -test.skip '^" + leftOut + "$') || status=1\n"
	}
	first += e2eCommand(pattern, args)
	if !o.long && !strings.Contains(o.tests, "HostReboots") {
		return []step{{"tests", o.cpu, first + "exit $status\n"}}
	}
	return []step{
		{"tests", o.cpu, first + e2eCommand("^TestHostReboots$", "-accel kvm -reboot before") + "exit $status\n"},
		{"after a reboot", o.cpu, half("after", "kvm") + "exit $status\n"},
		{"without KVM", o.cpu + ",-svm", half("without", "tcg") + "exit $status\n"},
	}
}

// slowness is how many times as long as on the machine itself anything may take in the
// outer VM, whose processors are emulated.
const slowness = 5

// e2eCommand is a line of a script that runs end-to-end tests.
func e2eCommand(pattern, args string) string {
	return fmt.Sprintf("(cd e2e && ./e2e.test -test.v -test.timeout 60m -test.run '%s' -prebuilt \"$PWD/../bin/e2e\" -slow %d %s) || status=1\n", pattern, slowness, args)
}

// allTests are the names of the end-to-end tests.
func (o *outer) allTests(ctx context.Context) ([]string, error) {
	list, err := filepath.Glob(filepath.Join(o.root, "e2e", "*_test.go"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, path := range list {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for _, m := range testFunction.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return names, ctx.Err()
}

var testFunction = regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(t \*testing\.T\)`)

// results are what tests printed of themselves.
type results struct {
	passed          int
	failed, skipped []string
	ran             map[string]bool
	ok              map[string]bool
}

var outcome = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)

func (r *results) read(lines []string) {
	if r.ran == nil {
		r.ran, r.ok = map[string]bool{}, map[string]bool{}
	}
	for i, line := range lines {
		m := outcome.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		r.ran[m[2]] = true
		switch m[1] {
		case "PASS":
			r.passed++
			r.ok[m[2]] = true
		case "FAIL":
			r.failed = append(r.failed, m[2])
		case "SKIP":
			why := ""
			if i > 0 {
				why = strings.TrimSpace(lines[i-1])
			}
			r.skipped = append(r.skipped, m[2]+": "+why)
		}
	}
}

// missed is an error if one of the tests that are wanted has not passed: one that is skipped
// or has another name now proves nothing.
func (r *results) missed(wanted []string) error {
	var names []string
	for _, name := range wanted {
		if !r.ok["Test"+name] {
			names = append(names, "Test"+name)
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("not passed: %s", strings.Join(names, " "))
}

// leftOut is a test of the hypervisor package that has not come to its end in here.
const leftOut = "TestTakenOver"

// print says what all of it proves nothing about.
func (r *results) print(all []string) {
	fmt.Println("outer: left out", leftOut)
	for _, name := range r.skipped {
		fmt.Println("outer: skipped", name)
	}
	var left []string
	for _, name := range all {
		if !r.ran[name] && name != "TestMain" {
			left = append(left, name)
		}
	}
	fmt.Println("outer: not run here:", strings.Join(left, " "))
	for _, name := range r.failed {
		fmt.Println("outer: FAILED", name)
	}
}
