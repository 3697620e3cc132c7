package cli

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/hypervisor/pick"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/trial"
)

// finding is what doctor says about one thing.
type finding struct {
	what  string
	state string // "ok", "note" or "bad"
	text  string
	hint  string
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what hyve needs on this host",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			home, err := a.home()
			if err != nil {
				return err
			}
			bad := 0
			w := tabwriter.NewWriter(a.stdout, 5, 1, 2, ' ', 0)
			for _, f := range diagnose(cmd.Context(), home) {
				fmt.Fprintf(w, "%s\t%s\t%s\n", f.state, f.what, f.text)
				if f.hint != "" {
					fmt.Fprintf(w, "\t\t%s\n", f.hint)
				}
				if f.state == "bad" {
					bad++
				}
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if bad > 0 {
				return fmt.Errorf("%d of these keep hyve from working", bad)
			}
			return nil
		},
	}
}

func diagnose(ctx context.Context, home machine.Home) []finding {
	findings := []finding{{"system", "ok", runtime.GOOS + "/" + runtime.GOARCH, ""}}
	findings = append(findings, diagnoseHypervisor(ctx, home)...)
	findings = append(findings, diagnoseData(ctx, home)...)
	if path, err := exec.LookPath("docker"); err != nil {
		findings = append(findings, finding{"docker client", "note", "not on PATH",
			"hyve docker runs the one in the machine; install docker-cli for compose and contexts"})
	} else {
		findings = append(findings, finding{"docker client", "ok", path, ""})
	}
	return findings
}

func diagnoseHypervisor(ctx context.Context, home machine.Home) []finding {
	backend, err := pick.Find(ctx, "", home.CacheDir())
	if err != nil {
		return []finding{{"hypervisor", "bad", err.Error(), hint.Of(err)}}
	}
	findings := []finding{{"hypervisor", "ok", backend.String(), ""}}
	verdict := backend.TryAgain(ctx)
	findings = append(findings, diagnoseAcceleration(verdict))
	findings = append(findings, diagnoseFreezing(verdict))
	findings = append(findings, diagnoseTrials(home)...)
	if !verdict.GivesBack {
		findings = append(findings, finding{"memory", "note", "a machine keeps the host's memory that it has once used until it stops", ""})
	}
	return append(findings, diagnoseConfinement(backend.Unconfined())...)
}

// diagnoseAcceleration says what came of the test of the hardware, which a no has it done
// anew each time.
func diagnoseAcceleration(verdict hypervisor.Verdict) finding {
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
		return finding{"acceleration", "ok", fmt.Sprintf("%s (%s)", verdict.Name, how), ""}
	}
	hint := verdict.Hint
	if !verdict.Tested.IsZero() {
		hint = strings.TrimPrefix(hint+"; hyve doctor tries again each time; a machine does when it starts, an hour after the last refusal", "; ")
	}
	return finding{"acceleration", "note", fmt.Sprintf("none, software emulation: %s (%s)", verdict.Reason, how), hint}
}

// diagnoseConfinement says what a guest could do that has taken over its hypervisor.
func diagnoseConfinement(unconfined []string) []finding {
	if len(unconfined) == 0 {
		return []finding{{"confinement", "ok", "a hypervisor that its guest takes over cannot reach your files, processes or network", ""}}
	}
	var findings []finding
	for _, line := range unconfined {
		findings = append(findings, finding{"confinement", "note", "if a guest took over its hypervisor, " + line, ""})
	}
	return findings
}

func diagnoseFreezing(verdict hypervisor.Verdict) finding {
	if !verdict.Freezes() {
		return finding{"freezing", "note", "machines boot: " + verdict.NoFreeze, ""}
	}
	if verdict.NoSharing != "" {
		return finding{"freezing", "note", "machines are thawed, but share no memory: " + verdict.NoSharing, ""}
	}
	return finding{"freezing", "ok", "machines are thawed instead of booted, and share memory", ""}
}

// diagnoseTrials says what came of thawing machines, once for each kind of hardware.
func diagnoseTrials(home machine.Home) []finding {
	var findings []finding
	for _, tried := range trial.All(home) {
		when := ""
		if !tried.Tested.IsZero() {
			when = fmt.Sprintf(" (tried at %s)", tried.Tested.Local().Format(time.DateTime))
		}
		f := finding{"thawing", "ok", fmt.Sprintf("%v%s", tried, when), ""}
		if !tried.Works {
			f = finding{"thawing", "note", fmt.Sprintf("%v: these boot: %s%s", tried, tried.Reason, when),
				"hyve image build --freeze tries again, with their --cpus and --memory; hyve create does an hour after the last no"}
		}
		findings = append(findings, f)
	}
	return findings
}

func diagnoseData(ctx context.Context, home machine.Home) []finding {
	if err := home.Make(); err != nil {
		return []finding{{"data directory", "bad", err.Error(), "set HYVE_HOME to a directory that you may write"}}
	}
	findings := []finding{{"data directory", "ok", string(home), ""}}
	store, err := image.Open(home.ImagesDir())
	if err != nil {
		return append(findings, finding{"guest image", "bad", err.Error(), hint.Of(err)})
	}
	entries, err := store.List()
	if err != nil {
		return append(findings, finding{"guest image", "bad", err.Error(), hint.Of(err)})
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
		f := finding{"guest image", "ok", fmt.Sprintf("Debian %s (%s), Linux %s, Docker %s (%s, of %s)",
			m.Debian.Version, m.Debian.Release, m.Kernel, m.Docker, build.EngineOf(e.Image), suite), ""}
		if !slices.Contains(findings[images:], f) {
			findings = append(findings, f)
		}
	}
	if len(findings) == images {
		return append(findings, finding{"guest image", "note", "none yet", "the first hyve create builds it"})
	}
	return append(findings, diagnoseUpdates(ctx, home, checked)...)
}
