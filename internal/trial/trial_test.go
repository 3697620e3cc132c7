package trial

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/hypervisor"
	"github.com/hyve-vm/hyve/internal/machine"
)

// shaped is a hypervisor whose VMs have this shape.
type shaped struct {
	hypervisor.Backend
	shape string
}

func (s shaped) Release() string { return "QEMU 10.0.2" }
func (s shaped) Shape(c hypervisor.Config, a string) string {
	return fmt.Sprint(s.shape, a, c.CPUs, c.Memory)
}

func testMachine(t *testing.T, image string) *machine.Machine {
	home := machine.Home(t.TempDir())
	if err := os.Mkdir(home.Templates(), 0o700); err != nil {
		t.Fatal(err)
	}
	return machine.New(home, machine.Spec{Name: "m", Image: image, CPUs: 2, Memory: 1 << 30}, machine.PickAddress("m", nil))
}

// What is kept is read again, by its owner alone, and listed; it is of one image, hypervisor
// and accelerator.
func TestKeep(t *testing.T) {
	m := testMachine(t, "sha256:0123456789abcdef")
	qemu := shaped{shape: "one"}
	path := Path(m, qemu, "kvm")
	if _, ok := Read(path); ok {
		t.Error("there is a verdict before any trial")
	}
	no := New(m, qemu, "kvm", errors.New("its clock has jumped\x1b[31m"))
	if err := no.Keep(path); err != nil {
		t.Fatal(err)
	}
	read, ok := Read(path)
	if !ok || read.Works || read.Reason.String() != "its clock has jumped?[31m" || !read.Fresh() || !read.Tested.Equal(no.Tested) {
		t.Errorf("it is %+v", read)
	}
	if want := "2 CPUs, QEMU 10.0.2, kvm, "; !strings.HasPrefix(read.String(), want) || len(read.String()) == len(want) {
		t.Errorf("it is of %v, want %s", read, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	yes := New(m, qemu, "tcg", nil)
	if err := yes.Keep(Path(m, qemu, "tcg")); err != nil {
		t.Fatal(err)
	}
	if all := All(m.Home()); len(all) != 2 || all[0].Works || !all[1].Works || all[1].NoFreeze() != "" {
		t.Errorf("they are %+v", all)
	}
	other := testMachine(t, "sha256:fedcba9876543210")
	for _, p := range []string{Path(m, shaped{shape: "two"}, "kvm"), Path(other, qemu, "kvm")} {
		if filepath.Base(p) == filepath.Base(path) {
			t.Errorf("%s is kept for others", p)
		}
	}
}

const good = `{"works":true,"tested":"2026-11-27T15:51:35Z","hypervisor":"QEMU 7.2.22","accelerator":"tcg","kernel":"Linux 6.1","cpus":2}`

// What cannot be read is a no that does not last.
func TestParse(t *testing.T) {
	if v := parse([]byte(good)); !v.Works || v.NoFreeze() != "" || v.Hypervisor.String() != "QEMU 7.2.22" {
		t.Errorf("it is %+v", v)
	}
	bad := strings.Replace(good, `"works":true`, `"works":false,"reason":"so"`, 1)
	if v := parse([]byte(bad)); v.Works || !strings.HasSuffix(v.NoFreeze(), ": so") {
		t.Errorf("it is %+v", v)
	}
	for _, text := range []string{"", "{}", "null", "[]", good[:40],
		strings.Replace(good, "true", "false", 1), // why not?
		strings.Replace(good, "true", `true,"reason":"so"`, 1),
		strings.Replace(good, "true", `"yes"`, 1),
		strings.Replace(good, "2026", "26", 1),
		strings.Replace(good, `"cpus":2`, `"cpus":0`, 1),
	} {
		if v := parse([]byte(text)); v.Works || v.NoFreeze() == "" || v.Fresh() {
			t.Errorf("%s is %+v", text, v)
		}
	}
	m := testMachine(t, "sha256:0123456789abcdef")
	path := Path(m, shaped{}, "tcg")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if v, ok := Read(path); !ok || v.Works {
		t.Error("a directory is a yes")
	}
}

// States of hardware are kept only where a trial has said that they can be thawed; those of
// emulation unless one has said that they cannot.
func TestNoFreeze(t *testing.T) {
	m := testMachine(t, "sha256:0123456789abcdef")
	with := func(accel string, c hypervisor.Capabilities) hypervisor.Verdict {
		return hypervisor.Verdict{Name: accel, Capabilities: c}
	}
	tcg, kvm := with("tcg", hypervisor.Capabilities{}), with("kvm", hypervisor.Capabilities{OnTrial: true})
	hvf := with("hvf", hypervisor.Capabilities{NoFreeze: "not with hvf"})
	check := func(when string, want map[string]string) {
		t.Helper()
		for _, accel := range []hypervisor.Verdict{tcg, kvm, hvf} {
			got, want := NoFreeze(m, shaped{}, accel), want[accel.Name]
			if !strings.Contains(got, want) || (want == "") != (got == "") {
				t.Errorf("%s, %s: %q, want %q", when, accel.Name, got, want)
			}
		}
	}
	keep := func(failed error) {
		t.Helper()
		for _, accel := range []string{"tcg", "kvm", "hvf"} {
			if err := New(m, shaped{}, accel, failed).Keep(Path(m, shaped{}, accel)); err != nil {
				t.Fatal(err)
			}
		}
	}
	check("before a trial", map[string]string{"kvm": "hyve image build --freeze --cpus 2 tries one", "hvf": "not with hvf"})
	keep(nil)
	check("after a yes", map[string]string{"hvf": "not with hvf"})
	keep(errors.New("its clock has jumped"))
	check("after a no", map[string]string{"tcg": "jumped", "kvm": "jumped", "hvf": "not with hvf"})
	keep(nil)
	m.Memory *= 2
	check("with other memory", map[string]string{"hvf": "not with hvf"})
	m.CPUs = 1
	check("with one CPU", map[string]string{"kvm": "of 1 CPU was tried", "hvf": "not with hvf"})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"works":false,"reason":"a\u001b[2Jb","tested":"2026-11-27T15:51:35Z","cpus":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v := parse(data)
		if v.Works != (v.NoFreeze() == "") {
			t.Errorf("%q works, and does not", data)
		}
		for _, text := range []string{v.String(), v.NoFreeze()} {
			if strings.ContainsAny(text, "\x1b\n\x00") || len(text) > 2048 {
				t.Errorf("%q is said of %q", text, data)
			}
		}
	})
}

// A no is believed for an hour, and none of the future.
func TestFresh(t *testing.T) {
	for age, want := range map[time.Duration]bool{
		0: true, 50 * time.Minute: true, hypervisor.RefusalAge + time.Minute: false, -time.Hour: false,
	} {
		if v := (Verdict{Tested: time.Now().Add(-age)}); v.Fresh() != want {
			t.Errorf("%v: %t", age, v.Fresh())
		}
	}
}
