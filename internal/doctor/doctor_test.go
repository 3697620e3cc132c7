package doctor

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/trial"
)

type someBackend struct{ hypervisor.Backend }

func (someBackend) Release() string                            { return "QEMU 10.0.2" }
func (someBackend) Shape(_ hypervisor.Config, a string) string { return a }

// The doctor says of each kind of hardware whether machines of it could be thawed, when that
// was tried, and how to try again.
func TestDiagnoseTrials(t *testing.T) {
	home := machine.Home(t.TempDir())
	if found := diagnoseTrials(trial.All(home)); len(found) != 0 {
		t.Errorf("before any trial: %+v", found)
	}
	m := machine.New(home, machine.Spec{Name: "m", Image: "sha256:0123", CPUs: 2, Memory: 1 << 30}, machine.PickAddress("m", nil))
	yes, no := trial.New(m, someBackend{}, "tcg", nil), trial.New(m, someBackend{}, "kvm", errors.New("its clock has jumped"))
	yes.Kernel = guestapi.NewText("Linux 6.1")
	no.Tested = no.Tested.Add(time.Second)
	if err := errors.Join(os.Mkdir(home.Templates(), 0o700),
		no.Keep(trial.Path(m, someBackend{}, "kvm")), yes.Keep(trial.Path(m, someBackend{}, "tcg")),
		os.WriteFile(home.Trial(m.Image, "damaged"), []byte("{}"), 0o600)); err != nil {
		t.Fatal(err)
	}
	found := diagnoseTrials(trial.All(home))
	if len(found) != 3 {
		t.Fatalf("%+v", found)
	}
	when := "tried at " + yes.Tested.Local().Format(time.DateTime)
	if f := found[1]; f.State != OK || f.Text != "2 CPUs, QEMU 10.0.2, tcg, Linux 6.1 ("+when+")" || f.Hint != "" {
		t.Errorf("of what works: %+v", f)
	}
	for f, want := range map[Finding]string{found[2]: "kvm, " + no.Kernel.String() + ": these boot: its clock has jumped (tried at ", found[0]: "these boot: "} {
		if f.State != Note || !strings.Contains(f.Text, want) || !strings.Contains(f.Hint, "hyve image build --freeze tries again") {
			t.Errorf("of what does not work: %+v", f)
		}
	}
}

// That machines are thawed is said only where one was: with hardware, which is tried first, not
// before a trial of it that says yes. In emulation none is needed.
func TestDiagnoseFreezing(t *testing.T) {
	with := func(name string, c hypervisor.Capabilities) hypervisor.Verdict {
		return hypervisor.Verdict{Name: name, Capabilities: c}
	}
	tcg, kvm := with("tcg", hypervisor.Capabilities{}), with("kvm", hypervisor.Capabilities{OnTrial: true})
	copies := with("kvm", hypervisor.Capabilities{OnTrial: true, NoSharing: "no filter"})
	hvf := with("hvf", hypervisor.Capabilities{NoFreeze: "not with hvf"})
	of := func(accel string, works bool) trial.Verdict {
		return trial.Verdict{Works: works, Accelerator: guestapi.NewText(accel)}
	}
	const thawed, none = "machines are thawed instead of booted", "no thawed machine has worked on this host with kvm yet"
	for _, test := range []struct {
		verdict hypervisor.Verdict
		tried   []trial.Verdict
		state   State
		text    string
		hint    bool
	}{
		{tcg, nil, OK, thawed, false},
		{kvm, nil, Note, none, true},
		{kvm, []trial.Verdict{of("tcg", true), of("kvm", false)}, Note, none, true},
		{kvm, []trial.Verdict{of("kvm", false), of("kvm", true)}, OK, thawed, false},
		{copies, nil, Note, none, true},
		{copies, []trial.Verdict{of("kvm", true)}, Note, "share no memory: no filter", false},
		{hvf, []trial.Verdict{of("hvf", true)}, Note, "machines boot: not with hvf", false},
	} {
		f := diagnoseFreezing(test.verdict, test.tried)
		if f.State != test.state || !strings.Contains(f.Text, test.text) || (f.Hint != "") != test.hint {
			t.Errorf("%+v after %v: %+v", test.verdict, test.tried, f)
		}
	}
}
