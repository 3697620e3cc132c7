package lifecycle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/frozen"
	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/trial"
)

// Templates go with their image, and when nobody has used them for long.
func TestTemplatesGo(t *testing.T) {
	home := machine.Home(t.TempDir())
	const one, other = "sha256:0123456789abcdef", "sha256:fedcba9876543210"
	made := func(dir string, age time.Duration) string {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(dir, then, then); err != nil {
			t.Fatal(err)
		}
		return filepath.Base(dir)
	}
	draft := func(name string) string { return filepath.Join(home.Templates(), draftTemplate+name) }
	made(home.Template(one, "a"), 0)
	made(home.Template(one, "b"), 0)
	kept := []string{made(draft("young"), time.Minute), made(home.Template(other, "a"), keepTemplates-time.Hour)}
	made(home.Template(other, "b"), keepTemplates+time.Hour)
	made(draft("old"), keepDrafts+time.Minute)
	// What came of a trial has no age: who may not be frozen today may not next month.
	long := time.Now().Add(-2 * keepTemplates)
	for _, path := range []string{home.Trial(one, "c"), home.Trial(other, "c")} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, long, long)); err != nil {
			t.Fatal(err)
		}
	}
	kept = append(kept, filepath.Base(home.Trial(other, "c")))

	if err := RemoveTemplates(home, one); err != nil {
		t.Fatal(err)
	}
	sweepTemplates(home.Templates())
	entries, err := os.ReadDir(home.Templates())
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if !slices.Equal(left, kept) {
		t.Errorf("left are %q, want %q", left, kept)
	}
}

// A template whose disk is not as it was, because it was restored from a backup, say, goes,
// so that another one is made. One that could not be made is not tried again at once.
func TestUselessTemplates(t *testing.T) {
	template := machine.Dir(filepath.Join(t.TempDir(), "template"))
	write := func() {
		if err := os.WriteFile(template.Disk(), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(string(template), 0o700); err != nil {
		t.Fatal(err)
	}
	write()
	draft, err := frozen.New(template.Frozen(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	if err := errors.Join(os.WriteFile(draft.Devices(), nil, 0o600), draft.Commit("shape", template.Disk())); err != nil {
		t.Fatal(err)
	}
	if existing(string(template)) == "" {
		t.Error("a good template is none")
	}
	time.Sleep(10 * time.Millisecond)
	if err := os.Remove(template.Disk()); err != nil {
		t.Fatal(err)
	}
	write()
	if existing(string(template)) != "" {
		t.Error("a template with another disk is one")
	}
	if _, err := os.Stat(string(template)); err == nil {
		t.Error("it is still there")
	}
	if failedLately(string(template)) {
		t.Error("it counts as failed")
	}
	if err := os.Mkdir(string(template), 0o700); err != nil {
		t.Fatal(err)
	}
	if existing(string(template)) != "" || !failedLately(string(template)) {
		t.Error("one that could not be made is tried again")
	}
}

// shapeless is a hypervisor for which all hardware is alike.
type shapeless struct{ hypervisor.Backend }

func (shapeless) Shape(hypervisor.Config, string) string { return "" }

func (shapeless) Accelerator(context.Context) hypervisor.Verdict {
	return hypervisor.Verdict{Name: "tcg"}
}
func (shapeless) Release() string { return "Shapeless 1.0" }

// What a template in the making is to be tried for is granted to it, and to nobody else.
func TestGrant(t *testing.T) {
	home := machine.Home(t.TempDir())
	m := machine.New(home, machine.Spec{Name: "m", Image: "sha256:0123", CPUs: 2, Memory: 1 << 30}, machine.PickAddress("m", nil))
	accel := hypervisor.Verdict{Name: "kvm", Capabilities: hypervisor.Capabilities{OnTrial: true}}
	s := shape{like: m, backend: shapeless{}, accel: accel}
	if !s.untried() {
		t.Error("it counts as tried before any trial")
	}
	draft := s.machine(machine.Home(t.TempDir()), templateName)
	if err := s.grant(draft); err != nil {
		t.Fatal(err)
	}
	tried := s.machine(draft.Home(), trialName)
	for _, m := range []*machine.Machine{draft, tried} {
		if reason := trial.NoFreeze(m, s.backend, accel); reason != "" {
			t.Errorf("%s: %s", m.Name, reason)
		}
	}
	if reason := trial.NoFreeze(m, s.backend, accel); reason == "" || !s.untried() {
		t.Error("all machines may be frozen")
	}
	no := trial.New(m, s.backend, accel.Name, errors.New("its clock has jumped"))
	if err := errors.Join(os.MkdirAll(home.Templates(), 0o700), no.Keep(s.trial())); err != nil || s.untried() {
		t.Errorf("after a no it counts as untried: %v", err)
	}
}

// Where a trial was in vain no template is made for an hour, and none counts as proven; what
// worked is tried again where a machine could not be thawed.
func TestTemplateAfterTrial(t *testing.T) {
	home := machine.Home(t.TempDir())
	m := machine.New(home, machine.Spec{Name: "m", Image: "sha256:0123", CPUs: 1, Memory: 1 << 30}, machine.PickAddress("m", nil))
	path := trial.Path(m, shapeless{}, "tcg")
	keep := func(age time.Duration, failed error) {
		t.Helper()
		v := trial.New(m, shapeless{}, "tcg", failed)
		v.Tested = v.Tested.Add(-age)
		if err := errors.Join(os.MkdirAll(home.Templates(), 0o700), v.Keep(path)); err != nil {
			t.Fatal(err)
		}
	}
	s, never := shapeOf(t.Context(), m, shapeless{}, nil)
	if never != "" || s.proven() || s.refusedLately() {
		t.Errorf("before any trial: %q, proven %t, refused %t", never, s.proven(), s.refusedLately())
	}
	keep(time.Minute, errors.New("its clock has jumped"))
	if s.proven() || !s.refusedLately() {
		t.Errorf("just after a no: proven %t, refused %t", s.proven(), s.refusedLately())
	}
	distrust(m, shapeless{}, "tcg")
	if tried, ok := trial.Read(path); !ok || tried.Works {
		t.Error("a no is forgotten")
	}
	keep(2*hypervisor.RefusalAge, errors.New("its clock has jumped"))
	if s.proven() || s.refusedLately() {
		t.Errorf("long after a no: proven %t, refused %t", s.proven(), s.refusedLately())
	}
	keep(time.Hour, nil)
	if !s.proven() || s.refusedLately() {
		t.Errorf("after a yes: proven %t, refused %t", s.proven(), s.refusedLately())
	}
	distrust(m, shapeless{}, "tcg")
	if s.proven() {
		t.Error("what could not be thawed is still proven")
	}
}

// Machines with the labels that all of their maker's have are made of a template that has
// them; any others are made of one that has none.
func TestTemplateOfCommonLabels(t *testing.T) {
	common := []string{"provider=xhyve"}
	key := func(labels ...string) string {
		options := CreateOptions{Spec: machine.Spec{Labels: labels}, CommonLabels: common}
		s := shape{like: &machine.Machine{Spec: machine.Spec{Image: "sha256:0123"}}, backend: shapeless{}, labels: options.templateLabels()}
		return s.dir()
	}
	if key("provider=xhyve") == key() {
		t.Error("a machine with the common labels is made of a template without any")
	}
	if key("provider=xhyve", "a=b") != key() || key("a=b") != key() {
		t.Error("a machine with other labels has a template of its own")
	}
}
