// Package doctor finds out what hyve has, and lacks, on this host.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/pick"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/trial"
)

// A Finding is what there is to say about one thing.
type Finding struct {
	What  string
	State State
	Text  string
	Hint  string // what the user can do about it; may be empty
}

// A State says how bad a finding is.
type State string

// The states: as it should be, worth knowing, and what keeps hyve from working.
const (
	OK   State = "ok"
	Note State = "note"
	Bad  State = "bad"
)

// Diagnose looks at what hyve needs on this host, and makes home if it is not there.
func Diagnose(ctx context.Context, home machine.Home) []Finding {
	findings := []Finding{{"system", OK, runtime.GOOS + "/" + runtime.GOARCH, ""}}
	findings = append(findings, diagnoseHypervisor(ctx, home)...)
	findings = append(findings, diagnoseData(ctx, home)...)
	if path, err := exec.LookPath("docker"); err != nil {
		findings = append(findings, Finding{"docker client", Note, "not on PATH",
			"hyve docker runs the one in the machine; install docker-cli for compose and contexts"})
	} else {
		findings = append(findings, Finding{"docker client", OK, path, ""})
	}
	return findings
}

func diagnoseHypervisor(ctx context.Context, home machine.Home) []Finding {
	backend, err := pick.Find(ctx, "", home.CacheDir())
	if err != nil {
		return []Finding{{"hypervisor", Bad, err.Error(), hint.Of(err)}}
	}
	findings := []Finding{{"hypervisor", OK, backend.String(), ""}}
	verdict := backend.TryAgain(ctx)
	findings = append(findings, diagnoseAcceleration(verdict))
	tried := trial.All(home)
	findings = append(findings, diagnoseFreezing(verdict, tried))
	findings = append(findings, diagnoseTrials(tried)...)
	if !verdict.GivesBack {
		findings = append(findings, Finding{"memory", Note, "a machine keeps the host's memory that it has once used until it stops", ""})
	}
	return append(findings, diagnoseConfinement(backend.Unconfined())...)
}

// diagnoseAcceleration says what came of the test of the hardware, which a no has it done
// anew each time.
func diagnoseAcceleration(verdict hypervisor.Verdict) Finding {
	how := fmt.Sprintf("looked in %s", verdict.Took.Round(time.Millisecond))
	switch {
	case verdict.Cached:
		how = "tried at " + verdict.Tested.Format(time.DateTime)
	case !verdict.Tested.IsZero():
		how = fmt.Sprintf("tried just now, in %s", verdict.Took.Round(time.Millisecond))
	}
	if verdict.Reason == "" {
		if verdict.Rate > 0 {
			how = fmt.Sprintf("%.0f million instructions a second, %s", verdict.Rate/1e6, how)
		}
		return Finding{"acceleration", OK, fmt.Sprintf("%s (%s)", verdict.Name, how), ""}
	}
	hint := verdict.Hint
	if !verdict.Tested.IsZero() {
		hint = strings.TrimPrefix(hint+"; hyve doctor tries again each time; a machine does when it starts, an hour after the last refusal", "; ")
	}
	return Finding{"acceleration", Note, fmt.Sprintf("none, software emulation: %s (%s)", verdict.Reason, how), hint}
}

// diagnoseConfinement says what a guest could do that has taken over its hypervisor.
func diagnoseConfinement(unconfined []string) []Finding {
	if len(unconfined) == 0 {
		return []Finding{{"confinement", OK, "a hypervisor that its guest takes over cannot reach your files, processes or network", ""}}
	}
	var findings []Finding
	for _, line := range unconfined {
		findings = append(findings, Finding{"confinement", Note, "if a guest took over its hypervisor, " + line, ""})
	}
	return findings
}

// diagnoseFreezing says whether machines are thawed. What was tried may be of other hardware,
// of which diagnoseTrials says more.
func diagnoseFreezing(verdict hypervisor.Verdict, tried []trial.Verdict) Finding {
	works := slices.ContainsFunc(tried, func(t trial.Verdict) bool {
		return t.Works && t.Accelerator.String() == verdict.Name
	})
	switch {
	case !verdict.Freezes():
		return Finding{"freezing", Note, "machines boot: " + verdict.NoFreeze, ""}
	case verdict.OnTrial && !works:
		return Finding{"freezing", Note, "machines boot: no thawed machine has worked on this host with " + verdict.Name + " yet",
			"the first hyve create tries one; hyve image build --freeze does at once"}
	case verdict.NoSharing != "":
		return Finding{"freezing", Note, "machines are thawed, but share no memory: " + verdict.NoSharing, ""}
	}
	return Finding{"freezing", OK, "machines are thawed instead of booted, and share memory", ""}
}

// diagnoseTrials says what came of thawing machines, once for each kind of hardware.
func diagnoseTrials(all []trial.Verdict) []Finding {
	var findings []Finding
	for _, tried := range all {
		when := ""
		if !tried.Tested.IsZero() {
			when = fmt.Sprintf(" (tried at %s)", tried.Tested.Local().Format(time.DateTime))
		}
		f := Finding{"thawing", OK, fmt.Sprintf("%v%s", tried, when), ""}
		if !tried.Works {
			f = Finding{"thawing", Note, fmt.Sprintf("%v: these boot: %s%s", tried, tried.Reason, when),
				"hyve image build --freeze tries again, with their --cpus; hyve create does an hour after the last no"}
		}
		findings = append(findings, f)
	}
	return findings
}

func diagnoseData(ctx context.Context, home machine.Home) []Finding {
	if err := home.Make(); err != nil {
		return []Finding{{"data directory", Bad, err.Error(), "set HYVE_HOME to a directory that you may write"}}
	}
	findings := []Finding{{"data directory", OK, string(home), ""}}
	store, err := image.Open(home.ImagesDir())
	if err != nil {
		return append(findings, Finding{"guest image", Bad, err.Error(), hint.Of(err)})
	}
	entries, err := store.List()
	if err != nil {
		return append(findings, Finding{"guest image", Bad, err.Error(), hint.Of(err)})
	}
	images := len(findings)
	var checked []*image.Image
	for _, e := range entries {
		if e.Err != nil || e.Image.Arch != runtime.GOARCH || build.Outdated(e.Image) {
			continue
		}
		checked = append(checked, e.Image)
		m := e.Image.Manifest
		suite := cmp.Or(m.EngineSuite, m.Debian.Release)
		f := Finding{"guest image", OK, fmt.Sprintf("Debian %s (%s), Linux %s, Docker %s (%s, of %s)",
			m.Debian.Version, m.Debian.Release, m.Kernel, m.Docker, build.EngineOf(e.Image), suite), ""}
		if !slices.Contains(findings[images:], f) {
			findings = append(findings, f)
		}
	}
	if len(findings) == images {
		return append(findings, Finding{"guest image", Note, "none yet", "the first hyve create builds it"})
	}
	return append(findings, diagnoseUpdates(ctx, home, checked)...)
}
