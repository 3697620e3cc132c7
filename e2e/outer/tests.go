package main

import (
	"cmp"
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
	"SharedMemory", "Clone", "Snapshots", "Idle", "StoppedResume", "KernelPanic", "EarlyCrash", "EarlyPanic", "FrozenForAMonth", "FullDiskWhileFreezing", "KilledTemplate",
	"TemplateBeforehand", "Throwaway", "TwentyAtOnce", "Reboot", "EngineCrash", "Stats", "Identity", "Set", "PowerCutsDuringRun", "Soak",
	"PublishedDoors", "TwoMachinesOnePort", "SSH", "Doctor"}

// A step is a boot of the outer VM and what runs in it.
type step struct {
	name, cpu, script string

	cut   bool   // the power fails when the script ends
	fails string // the script must fail, and print this
}

// runTests runs the tests in the outer VM, and tries that they fail without KVM. With -long
// its power fails in the midst of them, and it comes back with another processor, and at
// last without KVM.
func (o *outer) runTests(ctx context.Context) error {
	began := time.Now()
	var r results
	var errs []error
	for _, s := range o.steps() {
		at := time.Now()
		lines, err := o.boot(ctx, s, os.Stdout)
		if errors.Is(err, errStandstill) && !s.cut { // a step that needs no earlier one
			fmt.Printf("outer: %s: %v; trying once more\n", s.name, err)
			if err = o.makeWork(ctx); err == nil {
				lines, err = o.boot(ctx, s, os.Stdout)
			}
		}
		r.read(lines)
		fmt.Printf("outer: %s: %.0f s\n", s.name, time.Since(at).Seconds())
		if s.fails != "" {
			err = s.failed(lines, err)
		}
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
		errs = append(errs, r.missed(o.selected()))
	} else if r.passed == 0 {
		errs = append(errs, errors.New("no test has passed"))
	}
	fmt.Printf("outer: %d passed, %d failed in %.0f s\n", r.passed, len(r.failed), time.Since(began).Seconds())
	return errors.Join(errs...)
}

// failed is an error unless the script has ended as it must, given what it printed and how
// it ended.
func (s *step) failed(lines []string, err error) error {
	var status *statusError
	if !errors.As(err, &status) {
		return cmp.Or(err, errors.New("it succeeds"))
	}
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, s.fails) }) {
		return fmt.Errorf("it fails, but does not say %q", s.fails)
	}
	return nil
}

// Processors are a little different, and as different as can be.
const (
	withoutAVX2 = ",-avx2"
	withoutSVM  = ",-svm"
)

// selected are the tests that must pass.
func (o *outer) selected() []string {
	if o.long {
		return slices.Concat(core, more)
	}
	return core
}

func (o *outer) steps() []step {
	pattern := cmp.Or(o.tests, "^Test("+strings.Join(o.selected(), "|")+")$")
	const setting = "export HYVE_TEST_ACCEL=kvm; status=0\n"
	path := ""
	if o.inner != "" && o.inner != "trixie" {
		path = "export PATH=" + filepath.Join(o.root, ".deps", o.inner, "bin") + ":$PATH\n"
	}
	begin := path + setting
	if strings.Contains(o.tests, rebooting) {
		return o.reboots(begin)
	}
	const withKVM = "-accel kvm"
	tests := step{name: "tests", cpu: o.cpu, script: begin + "qemu-system-x86_64 --version | head -n 1; cat /proc/uptime\n"}
	tests.script += o.e2eCommand(pattern, withKVM) + end
	all := []step{tests}
	if o.tests == "" {
		all = append(all, step{name: "tests of the hypervisor package", cpu: o.cpu,
			script: begin + "(cd " + hypervisor + " && ./qemu.test -test.v -test.timeout 20m) || status=1\n" + end})
		// It takes no longer than it takes to see that KVM is missing.
		all = append(all, step{name: "tests without KVM", cpu: o.cpu + withoutSVM,
			script: begin + o.e2eCommand("^TestRun$", withKVM) + end, fails: "e2e: it is not kvm that would run machines"})
	}
	if o.long && o.tests == "" {
		all = append(all, o.reboots(begin)...)
	}
	return all
}

// rebooting is the test between whose parts the outer VM boots again.
const rebooting = "HostReboots"

// reboots are its parts.
func (o *outer) reboots(begin string) []step {
	part := func(name, part, cpu, accel string) step {
		script := begin + o.e2eCommand("^Test"+rebooting+"$", "-accel "+accel+" -reboot "+part) + end
		return step{name: name, cpu: o.cpu + cpu, script: script, cut: true}
	}
	return []step{
		part("before a power cut", "before", "", "kvm"),
		part("after the power cut", "after", "", "kvm"),
		part("with another processor", "other", withoutAVX2, "kvm"),
		part("with the first processor again", "again", "", "kvm"),
		part("without KVM", "without", withoutSVM, "tcg"),
	}
}

// end ends a script.
const end = "exit $status\n"

// slowness is how many times as long as on the machine itself anything may take in the
// outer VM, whose processors are emulated.
const slowness = 5

// e2eCommand is a line of a script that runs end-to-end tests.
func (o *outer) e2eCommand(pattern, args string) string {
	timeout := "30m"
	if o.long {
		timeout = "2h"
		args += " -long"
	}
	return fmt.Sprintf("(cd e2e && ./e2e.test -test.v -test.timeout %s -test.run '%s' -prebuilt \"$PWD/../bin/e2e\" -slow %d %s) || status=1\n", timeout, pattern, slowness, args)
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

// print says what all of it proves nothing about.
func (r *results) print(all []string) {
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
